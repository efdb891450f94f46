"""Feast's local compute engine, handing whole tables to an online store that takes them."""

from __future__ import annotations

from typing import Any

from feast.infra.common.materialization_job import MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.dag.context import ExecutionContext
from feast.infra.compute_engines.dag.node import DAGNode
from feast.infra.compute_engines.local.arrow_table_value import ArrowTableValue
from feast.infra.compute_engines.local.compute import LocalComputeEngine, LocalComputeEngineConfig
from feast.infra.compute_engines.local.feature_builder import LocalFeatureBuilder
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.compute_engines.local.nodes import LocalOutputNode
from feast.infra.registry.base_registry import BaseRegistry

from feature_repo.online_store import PacerRedisOnlineStore


class ColumnarComputeEngineConfig(LocalComputeEngineConfig):
    """Feast's configuration of its local engine."""

    type: Any = "feature_repo.compute_engine.ColumnarComputeEngine"


class ColumnarComputeEngine(LocalComputeEngine):
    """Feast's local engine but for the last step: no protobuf message a value, where the store does without.

    Feast's own last step makes the messages before the online store is asked, so that no store alone can avoid them.
    """

    def _materialize_one(
        self, registry: BaseRegistry, task: MaterializationTask, **_kwargs: Any
    ) -> LocalMaterializationJob:
        job_id = f"{task.feature_view.name}-{task.start_time}-{task.end_time}"
        context = self.get_execution_context(registry, task)
        builder = _Builder(registry, task, backend=self._get_backend(context))
        try:
            builder.build().execute(context)
        except Exception as error:
            # Feast raises a job's error.
            return LocalMaterializationJob(job_id=job_id, status=MaterializationJobStatus.ERROR, error=error)
        return LocalMaterializationJob(job_id=job_id, status=MaterializationJobStatus.SUCCEEDED)


class _Builder(LocalFeatureBuilder):
    def build_output_nodes(self, view: Any, input_node: DAGNode) -> DAGNode:
        node = _OutputNode("output", view, inputs=[input_node])
        self.nodes.append(node)
        return node


class _OutputNode(LocalOutputNode):
    def execute(self, context: ExecutionContext) -> ArrowTableValue:
        online, view = context.online_store, self.feature_view
        if not (view.online and isinstance(online, PacerRedisOnlineStore)):
            return super().execute(context)
        table = self.get_single_table(context).data
        context.node_outputs[self.name] = output = ArrowTableValue(data=table)
        if table.num_rows:
            online.write_table(context.repo_config, view, table)
            if view.offline:
                context.offline_store.offline_write_batch(
                    config=context.repo_config, feature_view=view, table=table, progress=lambda _: None
                )
        return output
