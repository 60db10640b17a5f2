"""TRL's DPOTrainer on pairs that are ids already: one definition for the benchmark and the tests."""

__all__ = ["create_trainer", "settings", "sides"]


def settings(folder, *, per_step: int, steps: int, lr: float, beta: float, **more):
    """A DPOConfig that trains in float32, without gradient checkpointing, at one rate.

    Args:
        folder: nothing is written there.
        per_step: pairs of a step.
        steps: of the run.
        lr, beta: as TRL's `learning_rate` and `beta`.
        more: options in place of these, such as `loss_type`.
    """
    import torch
    from trl import DPOConfig

    chosen = {
        "output_dir": str(folder),
        "per_device_train_batch_size": per_step,
        "max_steps": steps,
        "learning_rate": lr,
        "lr_scheduler_type": "constant",
        "beta": beta,
        "logging_steps": 1,
        "report_to": [],
        "use_cpu": not torch.cuda.is_available(),
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_dropout": False,
        "max_length": None,
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    return DPOConfig(**chosen | more)


def sides(pair) -> dict:
    """A pair as TRL's collator takes it."""
    from instruct_course.data.pairs import prompt_length

    start = prompt_length(pair[0])
    return {
        "prompt_ids": pair[0].ids[:start],
        "chosen_ids": pair[0].ids[start:],
        "rejected_ids": pair[1].ids[start:],
    }


def create_trainer(model, tokenizer, rows: list[dict], args, callbacks=None):
    """A DPOTrainer that takes rows of `sides` as they are, in their order.

    Args:
        model: what is trained.
        tokenizer: its padding token is used.
        rows: as `sides` gives them.
        args: as `settings` gives them.
        callbacks: as of transformers' Trainer.
    """
    import torch
    from datasets import Dataset
    from trl import DPOTrainer

    class Ready(DPOTrainer):
        """Rows that are tokenized already."""

        def _prepare_dataset(self, dataset, *args):
            return dataset

        def _get_train_sampler(self, *args):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    return Ready(
        model=model,
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=callbacks,
    )
