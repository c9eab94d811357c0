"""The same photos, network, weights and machine through Masklake and through what people use instead."""


def main() -> None:
    from tests.bench.peers import compare  # the peers' own environments need not have what it imports

    compare.main()
