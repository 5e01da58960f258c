"""A page to try a model: `photographs` computes, `page` is what Gradio shows. Needs the extra ``demo``."""
