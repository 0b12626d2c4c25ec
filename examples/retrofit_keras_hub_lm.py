"""A keras_hub language model becomes a LAuReL one, trains, and generates with its cache as before.

    KERAS_BACKEND=jax python examples/retrofit_keras_hub_lm.py
    KERAS_BACKEND=jax python examples/retrofit_keras_hub_lm.py --preset llama3.2_1b --trainable laurel

keras_hub's transformer blocks hide their residual joins, so that each is wrapped whole. Without arguments nothing is
downloaded: the model is a tiny Llama of bytes with random weights, which trains for some steps on Shakespeare. Prints
that the new model starts with the outputs of the old, the loss going down, what the joins have learned, and a text.
"""

import argparse

import keras
import keras_hub

import keras_laurel
from keras_laurel.applications import LaurelByteTokenizer, LaurelCausalLMPreprocessor


def tiny_llama():
    """Returns a Llama of bytes with random weights."""
    backbone = keras_hub.models.LlamaBackbone(
        vocabulary_size=256,
        num_layers=2,
        num_query_heads=4,
        hidden_dim=32,
        intermediate_dim=64,
        num_key_value_heads=2,
    )
    preprocessor = LaurelCausalLMPreprocessor(LaurelByteTokenizer(), sequence_length=32)
    return keras_hub.models.LlamaCausalLM(backbone, preprocessor=preprocessor)


def main():
    """Retrofits the model, trains it, and checks that it starts unchanged and learns."""
    parser = argparse.ArgumentParser(description="Retrofits a keras_hub language model.")
    parser.add_argument("--preset", help="of a keras_hub CausalLM, such as llama3.2_1b (downloaded)")
    parser.add_argument("--trainable", default="all", choices=["all", "laurel", "from_first_laurel"])
    parser.add_argument("--block", default="transformer_layer", help="what the names of the model's blocks begin with")
    args = parser.parse_args()
    keras.utils.set_random_seed(0)
    lm = keras_hub.models.CausalLM.from_preset(args.preset) if args.preset else tiny_llama()

    new = keras_laurel.laurelize(
        lm, "rw+lr", rank=4, wrap=lambda layer: layer.name.startswith(args.block), trainable=args.trainable
    )
    prompt = "First Citizen:\n"
    for model in (lm, new):
        model.compile(sampler="greedy")
    assert new.generate(prompt, max_length=24) == lm.generate(prompt, max_length=24), "the retrofit changed the model"
    print("the new model generates what the old one does")

    lines = [line for line in keras_laurel.datasets.tinyshakespeare.load_text().splitlines() if line][:512]
    optimizer = keras.optimizers.AdamW(5e-3)
    keras_laurel.exclude_from_weight_decay(optimizer, new)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    new.compile(optimizer, loss, sampler=keras_hub.samplers.TopPSampler(0.9, seed=0))
    monitor = keras_laurel.LaurelMonitor()
    losses = new.fit(lines, batch_size=32, epochs=2, shuffle=False, verbose=0, callbacks=[monitor]).history["loss"]
    print(f"loss: {losses[0]:.3f} -> {losses[-1]:.3f}")
    for name, values in monitor.values[-1].items():
        print(f"{name.split('/')[-1]}:", *(f"{key} {value:.3f}" for key, value in values.items()))
    print(f"text: {new.generate(prompt, max_length=32)!r}")
    assert losses[-1] < losses[0], "the model has not learned"


if __name__ == "__main__":
    main()
