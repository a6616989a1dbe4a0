"""Commands that train, and that plan training."""

import signal
from collections.abc import Sequence

from kit.cli.commands.common import Layers, Outcome, resolve_settings
from kit.cli.views.progress import loading
from kit.cli.views.runs import show_plan, show_training
from kit.planning.settings import PlanSettings
from kit.settings import Settings


def finetune(arguments: Sequence[str]) -> Outcome:
    """Fine-tune Aurora.

    Settings come from this command line, then KIT_* variables (KIT_TRAIN__STEPS for train.steps), then --config,
    then --recipe, then the defaults below; "none" unsets. With no arguments at all, the tiny Aurora is fine-tuned on
    the sample that the kit carries.
    """
    settings, options = resolve_settings(finetune, Settings, arguments, Layers)
    with loading("PyTorch, Aurora and PEFT" if settings.adapt.adds_adapter else "PyTorch and Aurora"):
        from kit.adapt.lora import import_packages
        from kit.run.finetune import finetune as run

        import_packages(settings.adapt.method)
    result = run(settings, recipe=options.recipe).to_dict()
    stopped = result.get("interrupted")
    code = 128 + signal.Signals[str(stopped)].value if stopped else 0
    return Outcome(result, options.as_json, show_training, code)


def plan(arguments: Sequence[str]) -> Outcome:
    """Say what a run would need of a GPU: memory and of what, arithmetic, time.

    Takes the settings of kit finetune, and traces the very step that it would run, without data, weights or a GPU:
    --grid 721x1440 stands for a store of that size with all that the variant reads.
    """
    settings, options = resolve_settings(plan, PlanSettings, arguments, Layers)
    with loading("PyTorch and Aurora"):
        from kit.planning.plan import plan as run
    result = run(settings).to_dict()
    return Outcome(result, options.as_json, show_plan)
