"""Scores brought together: sessions of clicks, strata of volume, single lesions, all by hand."""

from __future__ import annotations

import pytest

from adapters.scoring.summaries import by_lesion, case_rows, interaction, sessions, strata, stratum, summarise


def rows_of(curves: dict[tuple[str, int], list[float]], ml: dict[str, float] | None = None) -> list[dict]:
    """Iterative rows of cases and seeds, and one without clicks; a round that changed nothing took no time."""
    rows = []
    for (case, seed), curve in curves.items():
        for clicks, dice in enumerate([0.0, *curve]):
            seconds = 4.0 if clicks <= 1 else float(dice != curve[clicks - 2])
            rows.append(
                {
                    "case": case,
                    "seed": seed,
                    "policy": "iterative" if clicks else "automatic",
                    "clicks": clicks,
                    "dice": dice,
                    "nsd": dice / 2,
                    "seconds": seconds,
                    "lesion_ml": (ml or {}).get(case, 5.0),
                    "hd95": 10 - 10 * dice,
                }
            )
    return rows


CURVES = {("a", 0): [0.6, 0.8, 0.8], ("a", 1): [0.8, 0.9, 1.0], ("b", 0): [0.0, 0.2, 0.4], ("b", 1): [0.2, 0.4, 0.6]}


def test_sessions_by_hand() -> None:
    result = sessions(rows_of(CURVES)[::-1])
    assert [(row["case"], row["seed"]) for row in result] == list(CURVES)
    assert [row["dice_area"] for row in result] == pytest.approx([0.75, 0.9, 0.2, 0.4])
    assert [row["nsd_area"] for row in result] == pytest.approx([0.375, 0.45, 0.1, 0.2])
    assert [row["clicks_needed"] for row in result] == [2, 1, 4, 4]
    assert [row["reached"] for row in result] == [1.0, 1.0, 0.0, 0.0]
    assert [row["seconds_first_click"] for row in result] == [4.0] * 4
    assert [row["seconds_next_click"] for row in result] == [1.0] * 4, "the round that predicted nothing does not count"


def test_a_single_click_has_no_next_one() -> None:
    (result,) = sessions(rows_of({("a", 0): [0.7]}))
    assert (result["dice_area"], result["clicks_needed"], result["seconds_next_click"]) == (0.7, 2, None)


def test_interaction_by_hand() -> None:
    result = interaction(rows_of(CURVES))
    assert result is not None
    assert (result["rounds"], result["goal"], result["not_reached"]) == (3, 0.8, 4)
    assert result["dice_area"]["mean"] == pytest.approx(0.5625)
    assert result["dice_area"]["spread"] == pytest.approx(0.175 / 2**0.5)  # of 0.475 and 0.65
    assert result["clicks_needed"]["mean"] == 2.75
    assert result["clicks_needed"]["cases"] == {"a": 1.5, "b": 4.0}
    assert result["reached"] == 0.5
    assert (result["seconds_first_click"], result["seconds_next_click"]) == (4.0, 1.0)


def test_another_goal() -> None:
    result = interaction(rows_of(CURVES), goal=0.4)
    assert result is not None
    assert result["clicks_needed"]["cases"] == {"a": 1.0, "b": 2.5}
    assert result["reached"] == 1.0


def test_without_iterative_clicks_there_is_no_interaction() -> None:
    rows = [row for row in rows_of(CURVES) if row["policy"] == "automatic"]
    assert interaction(rows) is None
    assert sessions(rows) == []


def test_distances_are_summarised_where_they_are_known() -> None:
    rows = rows_of({("a", 0): [0.5], ("a", 1): [0.7], ("b", 0): [0.9], ("b", 1): [0.7]})
    entry = summarise(rows)[1]
    assert entry["hd95"]["mean"] == pytest.approx(3.0)
    assert entry["hd95"]["cases"] == pytest.approx({"a": 4.0, "b": 2.0})
    assert "hd95" not in summarise([{key: row[key] for key in row if key != "hd95"} for row in rows])[1]


@pytest.mark.parametrize(
    ("ml", "name"),
    [
        (0.0, "no lesion"),
        (0.99, "below 1 ml"),
        (1.0, "1 to 10 ml"),
        (9.9, "1 to 10 ml"),
        (10.0, "10 to 100 ml"),
        (100.0, "from 100 ml"),
        (800.0, "from 100 ml"),
    ],
)
def test_strata_of_volume(ml: float, name: str) -> None:
    assert stratum(ml) == name


@pytest.mark.parametrize(
    ("bounds", "name"), [([], "any volume"), ([2.5], "below 2.5 ml"), ([0.5, 1.5], "0.5 to 1.5 ml")]
)
def test_other_strata(bounds: list[float], name: str) -> None:
    assert stratum(1.0, bounds) == name


@pytest.mark.parametrize("bounds", [[0.0, 1.0], [2.0, 1.0], [1.0, 1.0], [-1.0]])
def test_strata_must_ascend(bounds: list[float]) -> None:
    with pytest.raises(ValueError, match="expected positive numbers in ascending order"):
        stratum(1.0, bounds)


def test_scores_by_stratum() -> None:
    curves = {(case, 0): [dice] for case, dice in zip("abcd", (0.9, 0.5, 0.7, 0.0), strict=True)}
    groups = strata(rows_of(curves, {"a": 200.0, "b": 3.0, "c": 4.0, "d": 0.0}))
    assert [(group["name"], group["cases"]) for group in groups] == [
        ("no lesion", ["d"]),
        ("1 to 10 ml", ["b", "c"]),
        ("from 100 ml", ["a"]),
    ]
    assert [group["scores"][1]["dice"]["mean"] for group in groups] == pytest.approx([0.0, 0.6, 0.9])
    assert [group["interaction"]["reached"] for group in groups] == [0.0, 0.0, 1.0]


def test_lesions_by_hand() -> None:
    rows = [
        {"case": c, "seed": 0, "policy": "random", "clicks": 1, "lesion": n, "clicked": k, "dice": d, "nsd": d / 2}
        for c, n, k, d in [("a", 1, 1, 0.8), ("a", 2, 0, 0.0), ("b", 1, 2, 0.6), ("b", 2, 0, 0.2)]
    ]
    result = by_lesion(rows)
    assert result is not None
    assert (result["cases"], result["lesions"]) == (2, 4)
    (entry,) = result["scores"]
    assert (entry["policy"], entry["clicks"], entry["rows"]) == ("random", 1, 4)
    assert [entry[key] for key in ("dice", "nsd", "found", "clicked_dice", "other_dice")] == pytest.approx(
        [0.4, 0.2, 0.75, 0.7, 0.1]
    )
    all_clicked = by_lesion([row for row in rows if row["clicked"]])
    assert all_clicked is not None
    assert all_clicked["scores"][0]["other_dice"] is None
    assert by_lesion([]) is None


def test_a_row_for_each_case_and_seed() -> None:
    about = [{"case": "a", "lesions": 3, "peak_mib": 100.0}]
    rows = case_rows(rows_of(CURVES, {"b": 0.5}), about, [1.0])
    assert [(row["case"], row["seed"], row["stratum"], row["lesions"], row["peak_mib"]) for row in rows] == [
        ("a", 0, "from 1 ml", 3, 100.0),
        ("a", 1, "from 1 ml", 3, 100.0),
        ("b", 0, "below 1 ml", None, None),
        ("b", 1, "below 1 ml", None, None),
    ]
    assert [row["clicks_needed"] for row in rows] == [2, 1, 4, 4]
    automatic = case_rows([row for row in rows_of(CURVES) if not row["clicks"]], about, [])
    assert [row["clicks_needed"] for row in automatic] == [None] * 4


def test_summary_by_hand() -> None:
    dice = {("a", 0): 0.5, ("b", 0): 0.7, ("a", 1): 0.7, ("b", 1): 0.9}
    rows = [
        {"case": name, "seed": seed, "policy": "random", "clicks": 1, "dice": value, "nsd": 1.0, "seconds": 2.0}
        for (name, seed), value in dice.items()
    ]
    (entry,) = summarise(rows)
    assert entry["dice"]["mean"] == pytest.approx(0.7)
    assert entry["dice"]["spread"] == pytest.approx(0.02**0.5)  # of 0.6 and 0.8
    assert entry["dice"]["cases"] == pytest.approx({"a": 0.6, "b": 0.8})
    assert entry["nsd"]["spread"] == 0
    assert (entry["rows"], entry["seconds"]) == (4, 2.0)
