import pytest

from benchmarks import report


def test_documents_tables_are_those_of_the_recorded_results():
    for document in report.DOCUMENTS:
        text = (report.ROOT / document).read_text("utf-8")
        assert "<!-- table: " in text
        assert report.with_tables(text) == text


def test_a_changed_figure_is_noticed():
    text = (report.ROOT / "README.md").read_text("utf-8")
    header = text.index("| variant |")
    digit = next(i for i in range(header, len(text)) if text[i].isdigit())
    changed = text[:digit] + str((int(text[digit]) + 1) % 10) + text[digit + 1 :]
    assert report.with_tables(changed) == text


def test_columns_are_left_out_of_all_rows():
    def cells(*without):
        lines = report.markdown_table("cpp_docs_deep", without).splitlines()
        return [line.split(" | ") for line in lines if line.startswith("|")]

    assert cells("extra", "seeds") == [[*row[:2], *row[4:]] for row in cells()]


def test_a_column_to_leave_out_must_be_there():
    with pytest.raises(ValueError, match="'costs' is not in list"):
        report.markdown_table("cpp_docs_deep", ["costs"])
