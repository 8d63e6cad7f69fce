import gc
import weakref
from pathlib import Path

from tests.registry_store.conftest import settings_in
from tests.registry_store.serving import served


def test_a_stopped_store_is_garbage(tmp_path: Path) -> None:
    """Nothing in the process holds a store once it has stopped, not even after its pages were read."""
    with served(settings_in(tmp_path)) as running:
        rest = running.rest()
        assert rest.get("/docs").status == 200
        assert rest.get("/openapi.json").status == 200
        assert rest.get("/api/agents/registry").status == 200
        store = weakref.ref(running.running._store.metrics)
    del running, rest
    gc.collect()
    assert store() is None
