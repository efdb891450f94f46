"""Brings decision logs and feature tables into a workspace: any log under the contract, and HeartSteps V1."""
