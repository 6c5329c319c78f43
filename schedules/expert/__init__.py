"""Schedules that move experts: the weights of the experts travel when, or before, they are used."""

from schedules.expert.on_demand import OnDemand

BUILT_IN = (OnDemand,)
