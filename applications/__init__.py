"""Programs that use keras_laurel: one folder a recipe. Run from the checkout; not part of the wheel."""
