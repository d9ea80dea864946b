"""HTML: elements, the style sheet, charts, and items as markup, for every page that Ladle writes."""
