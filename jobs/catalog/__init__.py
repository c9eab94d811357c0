"""`masklake catalog`: the tables of a lake in an Iceberg catalog, where engines find them. The Parquet stays as it is."""
