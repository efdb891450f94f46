"""A Gymnasium notification ecosystem: members with habits, interests and fatigue; it writes decision logs."""

from simulator.env import NotificationEnv
from simulator.log import SimulationReport, simulate
from simulator.policy import ConstantPolicy, Policy, ThresholdPolicy
from simulator.rollout import Step, rollout

__all__ = [
    "ConstantPolicy",
    "NotificationEnv",
    "Policy",
    "SimulationReport",
    "Step",
    "ThresholdPolicy",
    "rollout",
    "simulate",
]
