"""The engines by name, each with the class that draws (see `texture.engine.Engine`), which is imported when it is first used.

A new engine is a file in `texture/` and a line here; `--engine`, the panel and a model's manifest then know it.
"""

ENGINES = {
    "bridge": "TumorSynthLib.texture.painter:Painter",
    "exemplar": "TumorSynthLib.texture.exemplar.engine:Exemplar",
}
