"""The drawings of the lessons: `python -m tools.drawings` writes instruct_course/assets/drawings.

A drawing is a plain function with `@register("name")` in a module of this folder; it takes
nothing and gives a `Canvas`.
"""
