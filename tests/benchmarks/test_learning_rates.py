"""The learning-rate check: each join's best rate, and what it is ahead by at each."""

from benchmarks import learning_rates


def run(loss):
    at_the_end = dict.fromkeys(("loss", "perplexity", "bits_per_byte"), loss)
    return [{"seed": 0, "test": None, "held_out": [{"loss": 9.0}, at_the_end]}]


RESULTS = {
    "cpp_docs_deep_rates": {
        "variants": {
            "add@learning_rate=0.01": run(2.0),
            "add@learning_rate=0.002": run(3.0),
            "rw@joins=sublayer@learning_rate=0.002": run(2.5),
            "rw@joins=sublayer@learning_rate=0.01": run(2.75),
            "lr@learning_rate=0.002": run(3.25),
        }
    }
}


def test_losses_stand_beside_those_of_add_at_the_same_rate_and_the_least_is_bold():
    assert learning_rates.table_cells(RESULTS.__getitem__) == (
        ["variant", "0.002", "0.01"],
        [
            ["add", "3.0000", "**2.0000**"],
            ["rw@joins=sublayer", "**2.5000** (-0.5000)", "2.7500 (+0.7500)"],
            ["lr", "**3.2500** (+0.2500)", ""],
        ],
    )
