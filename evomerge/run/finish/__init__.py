"""Who wins: finalists, and the verdict on items that the search has never seen."""
