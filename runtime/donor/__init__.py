"""A process that lends memory of its own and takes it back.

    donor = DonorClient(None, "gpu1", backend="cuda-vmm", regained=grow)
    donor.start()
    donor.donate(8 << 30)    # memory that the engine has freed before
    ...
    donor.reclaim(8 << 30)   # grow(bytes) is called as extents come back, emptied by their consumers

An informer of `aquasim.core.informers` says when: `inform(...)` below 0 is a `donate`, its `reclaiming` a `reclaim`.
For an engine that lends its KV cache while it serves, `aquasim.runtime.donor.lending.Lending` does all of that over
an `aquasim.runtime.donor.elastic.ElasticPool`.
"""

from aquasim.runtime.donor.client import DonorClient, Loan

__all__ = ["DonorClient", "Loan"]
