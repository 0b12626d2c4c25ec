"""Named settings of a run, and how they are changed from the command line."""

import dataclasses

from applications import settings as fields
from applications.errors import UserError
from applications.settings import as_json as as_json
from applications.variants import parsed


@dataclasses.dataclass(frozen=True)
class Config:
    """All that decides a run; two runs of equal settings see the same batches.

    Attributes:
        text: The text to train on; see `sources.FORMS`.
        test_text: Another text for the end, in the same forms; by default the test split of a TFDS set, else none.
        data_dir: Folder of TFDS (its own by default) and of decompressed files (`runs/data` by default).
        document_start: In files, a paragraph that begins with this starts a document, such as `"# "` in Markdown. By
            default a file is one document; lines `<|endoftext|>` divide documents in either case.
        held_out: Part of the documents that is never trained on, for choices: one in `round(1 / held_out)`. Of a text
            with fewer documents than that, the last bytes.
        tokenizer: `"bytes"`, `"bpe:SIZE"` or `"sentencepiece:SIZE"`, which are trained on the documents to train on, or
            the folder of a tokenizer that was saved before.
        context: Number of tokens that the model sees at once.
        batch_size: Number of sequences in a step, over all devices and processes.
        steps: Number of training steps.
        accumulate: Number of steps whose gradients make one update of the weights.
        seed: Of the initial weights and the order of the documents.
        size: Name of a size of `LaurelDecoderLM`.
        num_layers: Number of blocks; the size's by default.
        hidden_dim: Width of the stream; the size's by default.
        num_heads: Number of query heads; the size's by default.
        intermediate_dim: Width of the MLPs; the size's by default.
        mixers: What mixes positions, comma-separated words that the blocks take in turn; see `LaurelDecoderBackbone`.
        residual: Word for `keras_laurel.residual`.
        rank: Rank of the low-rank maps.
        num_activations: Number of states that PA weighs.
        joins: A join for each `"sublayer"`, two a block, or for each `"block"`, as the paper counts them.
        residual_weights: Form of alpha and beta, `"softmax"`, `"sigmoid"`, `"single"` or `"free"`.
        scale: Sum of alpha and beta at the start; at 1 the stream is halved at every join, as in the paper's text.
        previous: The states that PA weighs, the `"last"` of them, or the `"first"`, which is one.
        down_initializer: Of the low-rank maps' first factor, `"column_orthogonal"` or the name of a Keras initializer.
        schedule: After a linear warmup, `"cosine"`, or `"wsd"`: constant, then a linear decay over the last steps.
        learning_rate: The highest.
        warmup_steps: Length of the warmup.
        decay_part: With `"wsd"`, part of the steps in which the rate decays.
        final_rate: The rate at the end, as a part of `learning_rate`.
        weight_decay: Of AdamW; of the kernels alone.
        beta_1: Of AdamW.
        beta_2: Of AdamW.
        clip_norm: Highest norm of all gradients together; longer ones are shortened. `None` is off.
        dropout: Of the branches.
        remat: Whether the backward pass computes the blocks again instead of keeping their activations.
        precision: A Keras dtype policy, or "auto": mixed_bfloat16 on TPUs and recent GPUs, else float32.
        jit: `"true"`, `"false"` or `"auto"`: whether the backend compiles the step.
        evaluate_every: Number of steps between evaluations on the held-out documents.
        evaluate_batches: Number of batches of these evaluations; all by default.
        checkpoint_every: Number of steps between checkpoints.
        sample_every: Number of steps between samples of text; 0 is never.
        sample_prompt: What the samples go on from.
        shards: Number of parts of the documents, each of which fills the same rows of every batch. A process reads
            those that its rows are from: with one, every process reads and tokenizes the whole text.
    """

    text: str = "shakespeare"
    test_text: str | None = None
    data_dir: str | None = None
    document_start: str = ""
    held_out: float = 0.01
    tokenizer: str = "bytes"
    context: int = 256
    batch_size: int = 32
    steps: int = 5000
    accumulate: int = 1
    seed: int = 0
    size: str = "small"
    num_layers: int | None = None
    hidden_dim: int | None = None
    num_heads: int | None = None
    intermediate_dim: int | None = None
    mixers: str = "attention"
    residual: str = "rw"
    rank: int = 32
    num_activations: int = 3
    joins: str = "sublayer"
    residual_weights: str = "softmax"
    scale: float = 2.0
    previous: str = "last"
    down_initializer: str = "column_orthogonal"
    schedule: str = "cosine"
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    decay_part: float = 0.2
    final_rate: float = 0.1
    weight_decay: float = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.95
    clip_norm: float | None = 1.0
    dropout: float = 0.0
    remat: bool = False
    precision: str = "auto"
    jit: str = "auto"
    evaluate_every: int = 500
    evaluate_batches: int | None = None
    checkpoint_every: int = 500
    sample_every: int = 0
    sample_prompt: str = "The "
    shards: int = 1


# Paper:    none; shows that everything runs. The `tiny` size on the built-in Shakespeare, as bytes.
# Command:  python -m applications.laurel_decoder_lm train --smoke
# Hardware: two CPU cores, a minute on any backend.
# Result:   a finite loss
SMOKE = Config(
    held_out=0.002,
    context=32,
    batch_size=4,
    steps=8,
    size="tiny",
    rank=2,
    warmup_steps=2,
    evaluate_every=4,
    evaluate_batches=2,
    checkpoint_every=4,
    sample_every=4,
)

# Paper:    none; a comparison of the joins that one CPU core can do: a model of 1.1M weights from the same builder, on
#           pages of Markdown, as bytes. The learning rate is the best of three for `add` on the held-out documents.
# Command:  python -m applications.laurel_decoder_lm experiment --config cpp_docs_small
# Hardware: one CPU core, about four minutes a run.
# Result:   README.md
CPP_DOCS_SMALL = Config(
    text="files:runs/data/cpp_docs_train.txt",
    test_text="files:runs/data/cpp_docs_test.txt",
    document_start="# ",
    context=128,
    batch_size=16,
    steps=600,
    size="tiny",
    num_layers=5,
    hidden_dim=128,
    num_heads=4,
    intermediate_dim=384,
    rank=16,
    learning_rate=2e-3,
    warmup_steps=60,
    evaluate_batches=25,
    evaluate_every=100,
    checkpoint_every=200,
)

# Paper:    LAuReL's table 5 in small: as the paper one join a block, but 12 blocks of width 96 and 1.4M weights for its
#           24 of 768. Text as above; the learning rate is the best of three or four for every join.
# Command:  python -m applications.laurel_decoder_lm experiment --config cpp_docs_deep
#           --variants add,add+4,rw,lr,pa,rw+lr,rw+lr+pa
# Hardware: one CPU core, about five minutes a run.
# Result:   README.md
CPP_DOCS_DEEP = dataclasses.replace(
    CPP_DOCS_SMALL,
    num_layers=12,
    hidden_dim=96,
    num_heads=3,
    intermediate_dim=256,
    joins="block",
    steps=400,
    warmup_steps=40,
    learning_rate=4e-3,
)

# Paper:    LAuReL's table 5 again, larger: 12 blocks of width 384 and 21M weights, on 20 times as much text.
# Command:  python -m applications.laurel_decoder_lm experiment --config cpp_docs_wide
#           --variants add,add+4,rw,lr,pa,rw+lr,rw+lr+pa
# Hardware: an H200, which eleven runs shared: about two minutes each.
# Result:   README.md
CPP_DOCS_WIDE = dataclasses.replace(
    CPP_DOCS_DEEP,
    context=512,
    batch_size=32,
    steps=1000,
    hidden_dim=384,
    num_heads=6,
    intermediate_dim=1024,
    rank=32,
    learning_rate=1.5e-3,
    warmup_steps=100,
    evaluate_batches=10,
    evaluate_every=200,
    checkpoint_every=1000,
)

# Paper:    none; about 10M weights, for one GPU or a patient CPU and a text of your own.
# Command:  python -m applications.laurel_decoder_lm train --config small --text "files:notes/*.txt"
# Hardware: written for one GPU.
# Result:   not run.
SMALL = Config(
    tokenizer="bpe:8192",
    context=512,
    batch_size=64,
    sample_every=1000,
)

# Paper:    LAuReL (arXiv 2411.07501), table 5: 24 blocks of 768, one join a block, context 512, batches of
#           1024 sequences, 10 billion tokens of C4. Optimizer, rates and tokenizer are not published: these are ours,
#           untuned.
# Command:  python -m applications.laurel_decoder_lm train --config paper_157m --residual rw+lr
# Hardware: 16 TPU v6e in the paper; written for one TPU host or several GPUs of 80 GB.
# Result:   not run at this size. The paper's test loss: add 3.0159, four more blocks 2.9963, rw 2.9557, rw+lr 2.9531,
#           rw+lr+pa 2.9499.
PAPER_157M = Config(
    text="tfds:c4/en",
    held_out=0.0001,
    tokenizer="sentencepiece:32096",
    context=512,
    batch_size=1024,
    steps=19_073,  # 10 billion tokens
    size="157m",
    joins="block",
    warmup_steps=1000,
    evaluate_every=1000,
    evaluate_batches=20,
    checkpoint_every=1000,
)

# Paper:    LAuReL (arXiv 2411.07501): a language model of 1 billion weights with RW+LR, r = 4. Its shape,
#           text and rates are not published: these are ours, untuned, with 20 tokens a weight.
# Command:  python -m applications.laurel_decoder_lm train --config paper_1b
# Hardware: written for a TPU slice or a host of 8 GPUs of 80 GB.
# Result:   not run.
PAPER_1B = dataclasses.replace(
    PAPER_157M,
    context=2048,
    batch_size=512,
    steps=20_000,
    size="1b",
    rank=4,
    joins="sublayer",
    learning_rate=6e-4,
    remat=True,
)

# Paper:    LAuReL (arXiv 2411.07501): a language model of 4 billion weights with RW+LR, r = 64. Its shape,
#           text and rates are not published: these are ours, untuned, with 20 tokens a weight.
# Command:  python -m applications.laurel_decoder_lm train --config paper_4b
# Hardware: written for a TPU slice.
# Result:   not run.
PAPER_4B = dataclasses.replace(PAPER_1B, batch_size=1024, steps=40_000, size="4b", rank=64, learning_rate=3e-4)

CONFIGS = {
    "smoke": SMOKE,
    "cpp_docs_small": CPP_DOCS_SMALL,
    "cpp_docs_deep": CPP_DOCS_DEEP,
    "cpp_docs_wide": CPP_DOCS_WIDE,
    "small": SMALL,
    "paper_157m": PAPER_157M,
    "paper_1b": PAPER_1B,
    "paper_4b": PAPER_4B,
}

VARIANTS = ("add", "add+1", "rw", "rw+lr", "rw+lr+pa")


def named(name):
    """Returns the config of that name."""
    if name not in CONFIGS:
        raise UserError(f"unknown config {name!r}; known: {', '.join(CONFIGS)}")
    return CONFIGS[name]


def with_variant(config, variant):
    """Returns `config` with what `variant` names; see `applications.variants.parsed`."""
    word, more, settings = parsed(variant)
    config = with_settings(dataclasses.replace(config, residual=word), settings)
    if not more:
        return config
    num_layers = config.num_layers
    if num_layers is None:
        # Only here: the command line must be read before Keras chooses its backend.
        from keras_laurel.applications.laurel_decoder.sizes import SIZES

        num_layers = SIZES[config.size]["num_layers"]
    return dataclasses.replace(config, num_layers=num_layers + more)


def with_settings(config, settings):
    """Returns `config` with changes as the command line writes them; see `applications.settings.with_settings`."""
    return checked(fields.with_settings(config, settings))


def checked(config):
    """Returns `config`.

    Raises:
        UserError: If a value is out of its range.
    """
    fields.check_ranges(
        config,
        {
            "at least 2": ("context",),
            "at least 1": (
                *("batch_size", "steps", "accumulate", "rank", "num_activations", "shards"),
                *("num_layers", "hidden_dim", "num_heads", "intermediate_dim"),
                *("evaluate_every", "evaluate_batches", "checkpoint_every"),
            ),
            "at least 0": ("seed", "warmup_steps", "weight_decay", "sample_every"),
            "above 0": ("learning_rate", "clip_norm", "scale"),
            "at least 0 and at most 1": ("final_rate",),
            "above 0 and at most 1": ("decay_part",),
            "at least 0 and at most 0.5": ("held_out",),
            "at least 0 and below 1": ("beta_1", "beta_2", "dropout"),
        },
    )
    fields.check_choices(
        config,
        {
            "joins": ("sublayer", "block"),
            "residual_weights": ("softmax", "sigmoid", "single", "free"),
            "previous": ("last", "first"),
            "schedule": ("cosine", "wsd"),
            "jit": ("auto", "true", "false"),
            "precision": ("auto", "float32", "bfloat16", "mixed_bfloat16", "mixed_float16"),
        },
    )
    if config.warmup_steps >= config.steps:
        raise UserError(f"warmup_steps must be below steps ({config.steps}), not {config.warmup_steps}")
    if config.batch_size % config.shards:
        raise UserError(f"batch_size must be a multiple of shards ({config.shards}), not {config.batch_size}")
    return config
