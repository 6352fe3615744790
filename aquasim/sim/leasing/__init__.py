"""Memory that changes hands on a simulated server: the lease protocols, carried as messages with a delay."""

from aquasim.sim.leasing.base import Loan, Market, Settings
from aquasim.sim.leasing.intended import Intended
from aquasim.sim.leasing.released import Released

MARKETS: dict[str, type[Intended] | type[Released]] = {"intended": Intended, "faithful": Released}
"""How memory is lent: by the protocol of `aquasim.core.leases`, or as AQUA's release does."""

__all__ = ["MARKETS", "Intended", "Loan", "Market", "Released", "Settings"]
