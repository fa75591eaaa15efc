"""Makes golden/scores.json: what torch-fidelity and clean-fid say of the arrays in feature_sets.py.

    pip install torch==2.13.0 torch-fidelity==0.4.0 clean-fid==0.1.35
    python tests/evaluation/make_golden_scores.py

The tests read the numbers and need none of these.
"""

import json
import pathlib

import feature_sets
import numpy as np
import torch
from cleanfid import fid as clean
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

GOLDEN = pathlib.Path(__file__).parent / "golden"


def main() -> None:
    x, y = feature_sets.pair()
    tensors, kid = (torch.from_numpy(x), torch.from_numpy(y)), feature_sets.KID
    found = fid_statistics_to_metric(*map(fid_features_to_statistics, tensors), verbose=False)
    found |= kid_features_to_metric(
        *tensors, kid_subsets=kid["subsets"], kid_subset_size=kid["size"], rng_seed=kid["seed"], verbose=False
    )
    found |= isc_features_to_metric(torch.from_numpy(feature_sets.logits()))
    found |= prc_features_to_metric(*tensors, verbose=False)
    moments = [part for a in (x, y) for part in (a.mean(0), np.cov(a, rowvar=False))]
    found["clean_fid"] = float(clean.frechet_distance(*moments))
    # One subset of everything, so that nothing depends on what clean-fid draws.
    found["clean_kid_of_500"] = clean.kernel_distance(x[:500], y, num_subsets=1, max_subset_size=500)
    (GOLDEN / "scores.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
