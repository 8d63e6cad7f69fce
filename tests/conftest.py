"""How hypothesis runs here: no deadlines on shared machines, and few, fixed examples while mutants are tried."""

import os

from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "here",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
settings.register_profile(
    "mutation",
    settings.get_profile("here"),
    max_examples=25,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
)
settings.load_profile(os.environ.get("PDP_HYPOTHESIS_PROFILE", "here"))
