"""Feast's provider, by whose hands ``materialize`` and ``push`` write whole tables to the online store."""

from __future__ import annotations

import asyncio
from typing import Any

import pandas as pd
import pyarrow as pa
from feast import FeatureView
from feast.infra.compute_engines.base import ComputeEngine
from feast.infra.passthrough_provider import PassthroughProvider
from feast.utils import _run_pyarrow_field_mapping

from feature_repo.compute_engine import ColumnarComputeEngine
from feature_repo.online_store import PacerRedisOnlineStore


class ColumnarProvider(PassthroughProvider):
    """What ``provider: local`` is, with the columnar engine in place of the local one, and pushes by columns.

    Another ``batch_engine`` in feature_store.yaml stands; another online store is written as Feast does.
    """

    @property
    def batch_engine(self) -> ComputeEngine:
        """The engine that feature_store.yaml names; for Feast's local one, ours."""
        named = self.repo_config.batch_engine_config
        options = dict(named) if isinstance(named, dict) else {"type": named}
        if self._batch_engine is None and options.pop("type", None) == "local":
            self._batch_engine = ColumnarComputeEngine(
                repo_config=self.repo_config,
                offline_store=self.offline_store,
                online_store=self.online_store,
                **options,
            )
        return super().batch_engine

    def ingest_df(self, feature_view: Any, df: pd.DataFrame, field_mapping: dict[str, str] | None = None) -> None:
        """Write pushed rows online; see Feast's Provider.ingest_df."""
        online = self.online_store
        if not (
            isinstance(online, PacerRedisOnlineStore)
            and isinstance(feature_view, FeatureView)
            and feature_view.batch_source is not None
        ):
            super().ingest_df(feature_view, df, field_mapping)
            return
        table = _run_pyarrow_field_mapping(pa.Table.from_pandas(df), feature_view.batch_source.field_mapping or {})
        online.write_table(self.repo_config, feature_view, table)

    async def ingest_df_async(
        self, feature_view: Any, df: pd.DataFrame, field_mapping: dict[str, str] | None = None
    ) -> None:
        """Write pushed rows online without holding up the event loop, as in Feast's feature server."""
        await asyncio.to_thread(self.ingest_df, feature_view, df, field_mapping)
