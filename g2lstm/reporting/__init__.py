"""What people look at: tables in Markdown, figures, and the page. Numbers come from inspection, compression, benchmark."""
