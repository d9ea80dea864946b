"""HTML elements, the style sheet, charts, and items as HTML, for all pages that Ladle writes."""
