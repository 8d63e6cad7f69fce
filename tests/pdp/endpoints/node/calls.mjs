// Calls the decision point at an address with Connect's own client for Node.js, without generated code: the
// descriptors are in a file. Prints one line of JSON for each answer.
import { readFileSync } from "node:fs";

import { createFileRegistry, fromBinary, toJson } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { compressionGzip, createConnectTransport } from "@connectrpc/connect-node";

const [address, descriptors] = process.argv.slice(2);
const files = fromBinary(FileDescriptorSetSchema, readFileSync(descriptors));
const service = createFileRegistry(files).getService("pdp.v1.PolicyDecisionPoint");
const action = { agentId: "billing-reader-test", actionType: "api.read", riskScore: 10 };

function print(method, message) {
  console.log(JSON.stringify(toJson(service.method[method].output, message)));
}

for (const useBinaryFormat of [true, false]) {
  const transport = createConnectTransport({
    baseUrl: `http://${address}`,
    httpVersion: "1.1",
    useBinaryFormat,
    sendCompression: useBinaryFormat ? null : compressionGzip,
    defaultTimeoutMs: 60_000,
  });
  const client = createClient(service, transport);
  print("evaluate", await client.evaluate({ action }));
  print("evaluateBatch", await client.evaluateBatch({ requests: Array(100).fill({ action, dryRun: true }) }));
  print("explain", await client.explain({ action }));
  try {
    await client.evaluate({ action: { ...action, riskScore: 101 } });
  } catch (error) {
    const refusal = ConnectError.from(error);
    console.log(JSON.stringify({ code: Code[refusal.code], message: refusal.rawMessage }));
  }
  for await (const update of client.waitForApproval({ approvalId: String(useBinaryFormat) })) {
    print("waitForApproval", update);
  }
}
