"""The metrics of several workers in one exposition."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from server.observability.worker_metrics import UP, merged


def exposition(backlog: float, awkward: str = "a") -> bytes:
    registry = CollectorRegistry()
    Gauge("facet_backlog", "Backlog.", registry=registry).set(backlog)
    Counter("facet_loads", "Loads {all}.", ["what"], registry=registry).labels(awkward).inc(2)
    Histogram("facet_seconds", "Time.", ["route"], registry=registry).labels("/v1/orders/{id}").observe(0.1)
    return generate_latest(registry)


def samples(text: bytes) -> dict[str, list[tuple[dict[str, str], float]]]:
    return {
        family.name: [(sample.labels, sample.value) for sample in family.samples]
        for family in text_string_to_metric_families(text.decode())
    }


def test_every_sample_names_its_process_and_the_rest_is_as_it_was() -> None:
    text = merged({1: exposition(5.0), 3: exposition(7.0)})
    assert text.count(b"# TYPE facet_backlog gauge") == 1
    found = samples(text)
    assert found["facet_backlog"] == [({"process": "1"}, 5.0), ({"process": "3"}, 7.0)]
    for name, alone in samples(exposition(5.0)).items():
        first = [(labels, value) for labels, value in found[name] if labels["process"] == "1"]
        assert [labels for labels, _ in first] == [{"process": "1", **labels} for labels, _ in alone]
        if not name.endswith("_created"):
            assert [value for _, value in first] == [value for _, value in alone]


def test_labels_with_quotes_braces_and_spaces_stay_whole() -> None:
    awkward = 'a "b" {c} d, e} 1'
    found = samples(merged({1: exposition(1.0, awkward)}))
    assert found["facet_loads"][0] == ({"process": "1", "what": awkward}, 2.0)


def test_a_worker_that_did_not_answer_is_shown_as_such() -> None:
    found = samples(merged({1: exposition(5.0), 2: None}))
    assert found[UP] == [({"process": "1"}, 1.0), ({"process": "2"}, 0.0)]
    assert found["facet_backlog"] == [({"process": "1"}, 5.0)]
