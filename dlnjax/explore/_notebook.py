"""The explorer as a notebook of marimo: `dlnjax explore` runs it as a page, `marimo edit` opens it with its code."""

import marimo  # pyright: ignore[reportMissingImports]

app = marimo.App(width="full", app_title="dlnjax explore")


@app.cell
def _():
    import jax
    import marimo as mo  # pyright: ignore[reportMissingImports]

    import dlnjax as dln
    from dlnjax.explore import _views as views
    from dlnjax.explore._model import Model
    from dlnjax.explore._page import Page
    from dlnjax.explore._problem import no_equilibrium
    from dlnjax.explore._state import State
    from dlnjax.explore._texts import as_python, as_shell

    jax.config.update("jax_enable_x64", True)
    _ = dln.cache()
    return Model, Page, State, as_python, as_shell, mo, no_equilibrium, views


@app.cell
def _(Model, Page, mo):
    # What the person sees: controls and views. All other cells answer what it asks.
    page, model = mo.ui.anywidget(Page()), Model()
    page  # noqa: B018
    return model, page


@app.cell
def _(State, page):
    warnings = []
    try:
        state = State.of(page.asked["query"])
    except ValueError as error:
        state = State()
        warnings.append(f"This link is no state of the page: {error}")
    return state, warnings


@app.cell
def _(model, page, state, warnings):
    # The bar shows what is done next before it is done.
    page.answer = {**page.answer, **model.progress(state)._asdict(), "n": 0}
    try:
        model.work(state)
    except ValueError as error:
        warnings.append(str(error))
    progress, flows = model.progress(state), model.flows(state)
    return flows, progress


@app.cell
def _(flows, page, state, views):
    page.singular_values = views.singular_values(flows, state)
    return


@app.cell
def _(flows, page, state, views):
    page.matrix = views.matrix(flows, state)
    return


@app.cell
def _(flows, page, state, views):
    page.effective_rank = views.effective_rank(flows, state)
    return


@app.cell
def _(flows, model, page, state, views):
    page.depth_map = views.depth_map(model.map(state), flows, state)
    return


@app.cell
def _(flows, page, state, views):
    page.speed_law = views.speed_law(flows, state)
    return


@app.cell
def _(flows, page, state, views):
    page.plane = views.plane(flows, state)
    return


@app.cell
def _(flows, model, page, state, views):
    page.network = views.network(model.network(state), flows, state)
    return


@app.cell
def _(flows, model, page, state, views):
    page.geodesic = views.geodesic(model.line(state), flows, state)
    return


@app.cell
def _(as_python, as_shell, page, state):
    page.texts = {"python": as_python(state), "shell": as_shell(state)}
    return


@app.cell
def _(flows, no_equilibrium, page, progress, state, views, warnings):
    # The last cell: when the browser has this answer, it has all drawings, and asks for the next piece of work.
    said = [*warnings, no_equilibrium(state) if state.noisy else "", views.stopped(flows, state)]
    words, warning = views.summary(flows, state), " ".join(filter(None, said))
    page.answer = {"n": page.asked["n"], **progress._asdict(), "words": words, "warning": warning}
    return


if __name__ == "__main__":
    app.run()
