"""`masklake export`: results and labels for other tools. It chooses rows by SQL; the formats are `masklake.pipeline.export`'s."""
