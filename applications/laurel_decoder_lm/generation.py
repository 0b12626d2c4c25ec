"""Text from a model."""

import keras_hub

from applications.errors import UserError

SAMPLERS = ("greedy", "top_k", "top_p", "random")


def sampler(name, temperature=1.0, seed=0):
    """Returns the sampler of that name; `top_k` is of the best 40 tokens, `top_p` of the best that make up 0.9.

    Raises:
        UserError: If the name is unknown, or the temperature is not above 0.
    """
    if temperature <= 0:
        raise UserError(f"--temperature must be above 0, not {temperature}; --sampler greedy has none")
    samplers = keras_hub.samplers
    makers = {
        "greedy": lambda: samplers.GreedySampler(),
        "top_k": lambda: samplers.TopKSampler(k=40, temperature=temperature, seed=seed),
        "top_p": lambda: samplers.TopPSampler(p=0.9, temperature=temperature, seed=seed),
        "random": lambda: samplers.RandomSampler(temperature=temperature, seed=seed),
    }
    if name not in SAMPLERS:
        raise UserError(f"unknown sampler {name!r}; known: {', '.join(SAMPLERS)}")
    return makers[name]()


def generate(lm, prompt, length=None):
    """Returns the prompt with what `lm` writes after it, until a document ends or there are `length` tokens.

    Args:
        lm: A `keras_hub.models.CausalLM` with a preprocessor, compiled with a sampler.
        prompt: A string.
        length: Number of tokens with the prompt; the context of the model by default.

    Raises:
        UserError: If the prompt leaves no room for a token, or `length` is more than the context.
    """
    context = lm.preprocessor.sequence_length
    length = context if length is None else length
    if length > context:
        raise UserError(f"--length must be at most {context}, the context of the model, not {length}")
    check_prompt(lm, prompt, length)
    return lm.generate(prompt, max_length=length)


def check_prompt(lm, prompt, length=None):
    """Refuses a prompt that leaves no room for a token.

    Args:
        lm: See `generate`.
        prompt: See `generate`.
        length: See `generate`.

    Raises:
        UserError: If it does.
    """
    length = length or lm.preprocessor.sequence_length
    tokens = 1 + len(lm.preprocessor.tokenizer(prompt))  # generation begins with the start token
    if tokens >= length:
        raise UserError(f"the prompt has {tokens} tokens with the start token, which leaves no room in {length}")


def printable(text):
    """Returns `text` with a replacement character for each that a terminal could take for an order."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)
