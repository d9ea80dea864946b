"""A scikit-learn estimator: a VAE for pipelines and grid searches.

The rest of Ladle does not use this module, and ``import ladle`` does not import it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, DensityMixin, TransformerMixin
from sklearn.utils import Tags, check_array, check_random_state, check_scalar
from sklearn.utils.validation import check_is_fitted, validate_data

from ladle.data import DataError, Dataset, Schema, read
from ladle.data.arrays import arrange
from ladle.data.conform import moments
from ladle.data.content import Content, Request
from ladle.data.schema import Column
from ladle.inference.methods import prepare
from ladle.machine import choose
from ladle.recipes import recipe as recipe_spec
from ladle.recipes.assemble import Training, assemble
from ladle.recipes.plans import has_levels
from ladle.shapes import numel
from ladle.spec import SpecError
from ladle.store.folder import Model, describe
from ladle.tasks.common import each_batch, gather, items, keyed_by_content
from ladle.tasks.encode import decode, encode
from ladle.tasks.sample import sample
from ladle.training.fit import fit
from ladle.training.progress import Show

SUPPORTS = ("binary", "bytes", "real")
MISSING = (None, "nan")
SMALLEST_BATCH = 16


class VAE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, DensityMixin, BaseEstimator):
    """A variational autoencoder for the rows of a table: an embedding, and a density that can be sampled.

    ::

        X --transform--> z --inverse_transform--> E[x|z]          score_samples: log p(x)          sample: x ~ p

    All computations and results are in 32-bit floating point. The columns may have any units. After a
    ``StandardScaler``, which enlarges columns of small variance, ``recipe="sigma_vae"``, with a common scale for all of
    them, tends to give better embeddings: other recipes spend their latents on the columns that they reconstruct best.

    Args:
        n_components: the number of latents; ``None`` uses the recipe's number, but at most the number of columns.
        recipe: the name of a recipe (``ladle parts`` lists them), or a function ``(schema, size) -> plan`` that
            returns a plan, such as a modified result of :func:`ladle.recipe`.
        size: the size of the networks: ``"xs"``, ``"s"``, ``"m"`` or ``"l"``.
        support: the support of the data: ``"binary"`` {0, 1}, ``"bytes"`` {0..255} or ``"real"``. ``"auto"`` selects
            binary if ``fit`` gets only 0 and 1, bytes for other arrays of type uint8, and real otherwise.
        missing: ``"nan"`` treats NaN as missing values: only the observed part of a row is encoded and scored, and
            ``inverse_transform(transform(X))`` fills in the rest. ``None`` refuses NaN.
        epochs: the maximum number of passes over the training rows, over which the learning rate decays. Training stops
            early if the bound on the validation rows no longer improves.
        batch_size: the number of rows per step. ``None`` uses the recipe's batch size if it has one, and otherwise a
            sixteenth of the training rows, but between 16 and 128: so 100 epochs have enough steps on small data.
        validation_fraction: the fraction of the rows (at least one row) held out from training to select the weights.
        importance_samples: the number of samples per row in ``score_samples``; more samples give a tighter bound.
        random_state: determines the initial weights, the held-out rows, the training noise and ``sample``. Pass an int
            for reproducible results, a ``RandomState``, or ``None`` to use NumPy's global random state.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``. A pickled estimator is stored on the CPU.
        verbose: print the progress of training on stderr.

    Attributes:
        model_: the fitted :class:`ladle.Model`, which can be passed to every function of Ladle.
        bound_: the mean evidence lower bound on log p(x) of the validation rows in nats, with one sample per row. For a
            plain autoencoder, which has no such bound, the mean of log p(x|z).
        n_iter_: the number of passes over the training rows, rounded up.
        n_features_in_: the number of columns.
        feature_names_in_: the names of the columns, if X has column names.

    Example:
        >>> from sklearn.datasets import load_digits
        >>> X, _ = load_digits(return_X_y=True)
        >>> vae = VAE(n_components=8, recipe="vae", size="xs", epochs=2, support="bytes", random_state=0).fit(X)
        >>> vae.transform(X).shape, vae.inverse_transform(vae.transform(X)).shape, vae.sample(3).shape
        ((1797, 8), (1797, 64), (3, 64))
        >>> vae.score_samples(X[:5]).shape  # a lower bound on log p(x) of each row, in nats
        (5,)

    Reference:
        Kingma, Welling: "Auto-Encoding Variational Bayes", 2014.
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        recipe: str | Callable[[Schema, str], Mapping[str, Any]] = "learned_prior",
        size: str = "s",
        support: str = "auto",
        missing: str | None = None,
        epochs: float = 100,
        batch_size: int | None = None,
        validation_fraction: float = 0.1,
        importance_samples: int = 100,
        random_state: int | np.random.RandomState | None = None,
        device: str = "auto",
        verbose: bool = False,
    ) -> None:
        self.n_components, self.recipe, self.size = n_components, recipe, size
        self.support, self.missing = support, missing
        self.epochs, self.batch_size, self.validation_fraction = epochs, batch_size, validation_fraction
        self.importance_samples, self.random_state = importance_samples, random_state
        self.device, self.verbose = device, verbose

    def fit(self, X: Any, y: Any = None) -> VAE:
        """Fit the model to the rows.

        Args:
            X: ``(n_samples, n_features)``, with at least 2 rows.
            y: ignored.

        Raises:
            ValueError: if the data or the parameters are not valid.
        """
        X = self._checked(X, reset=True)
        rng = check_random_state(self.random_state)
        shuffled, seed = rng.permutation(len(X)), int(rng.randint(2**31 - 1))
        held_out = min(max(1, round(self.validation_fraction * len(X))), len(X) - 1)
        valid, train = shuffled[:held_out], shuffled[held_out:]

        schema = self._schema(arrange(X, "X", Request(missing=self.missing)), train)
        whole = read(X, like=schema).all
        data = Dataset(schema, {"train": whole.take(train), "valid": whole.take(valid)})
        assembly = assemble(schema, self._plan(schema, len(train)), seed=seed)
        show = Show() if self.verbose else None
        for step in fit(assembly, data, epochs=self.epochs, seed=seed, device=self.device):
            if show:
                show(step)

        settings = {"recipe": self._recipe_name(), "size": self.size, "epochs": float(self.epochs), "seed": seed}
        vae = assembly.model.eval().requires_grad_(False)
        self.model_ = Model(vae, schema, describe(assembly, data, settings), choose(self.device).device)
        self.bound_, self.n_iter_ = -step.nats, int(np.ceil(step.epoch))
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Embed every row as the centre of q(z|x), which is deterministic.

        Returns:
            ``(n_samples, n_components)`` float32.
        """
        return encode(self._fitted(), self._checked(X))

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Decode every row of latents to the mean of p(x|z), in the units of the data; for binary data, probabilities.

        Args:
            X: ``(n_samples, n_components)``, such as the result of :meth:`transform`.

        Returns:
            ``(n_samples, n_features)`` float32.
        """
        return decode(self._fitted(), check_array(X, dtype=np.float32, input_name="X"))

    def score_samples(self, X: Any) -> np.ndarray:
        """Score each row: the importance-weighted bound on log p(x), in nats. Higher scores are more likely.

        The score is a lower bound in expectation. Its noise is seeded by the content of the row, so the score of a row
        does not depend on its position or on the other rows, and is the same in every call. Log-probabilities of binary
        data and of bytes are at most 0; log-densities of real data refer to the units of the data and may be positive.

        Returns:
            ``(n_samples,)`` float32.

        Raises:
            NotAvailable: if the model is a plain autoencoder, which has no density.

        Reference:
            Burda, Grosse, Salakhutdinov: "Importance Weighted Autoencoders", 2016.
        """
        model, samples = self._fitted(), self.importance_samples
        check_scalar(samples, "importance_samples", Integral, min_val=1)
        ready, found = prepare(model.vae, samples=samples), items(model, self._checked(X))
        batches = map(keyed_by_content, each_batch(model, found, ready.batch_size))
        return -gather(map(ready.measure, batches), len(found)).nats.astype(np.float32)

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of :meth:`score_samples`. On held-out rows, it is the score to maximise in a grid search.

        Args:
            X: ``(n_samples, n_features)``.
            y: ignored.
        """
        return float(self.score_samples(X).mean(dtype=np.float64))

    def sample(self, n_samples: int = 1, random_state: int | np.random.RandomState | None = None) -> np.ndarray:
        """Sample rows from the model: z from the prior, then x from p(x|z).

        Like scikit-learn's ``KernelDensity``, and unlike ``GaussianMixture``, this returns only the rows. They are
        samples of p(x|z), not its mean.

        Args:
            n_samples: the number of rows.
            random_state: the random state of the samples. ``None`` uses the random state of the estimator; if that is
                an int, every call returns the same rows.

        Returns:
            ``(n_samples, n_features)`` float32, in the units of the data.
        """
        model = self._fitted()
        check_scalar(n_samples, "n_samples", Integral, min_val=1)
        rng = check_random_state(self.random_state if random_state is None else random_state)
        return sample(model, n_samples, seed=int(rng.randint(2**31 - 1)), noise=True)

    # ------------------------------------------------------------------------------------------ schema and plan

    def _schema(self, content: Content, train: np.ndarray) -> Schema:
        """The schema of the rows, with the moments of the training rows; ``missing`` is set by the parameter alone."""
        found, learned = content.items, content.items.take(train)
        support = self.support
        if support == "auto":
            seen = found.x if found.observed is None else found.x[found.observed]
            support = "binary" if np.isin(seen, (0, 1)).all() else content.support
        elif support not in SUPPORTS:
            raise DataError(f"support must be auto, {', '.join(SUPPORTS)}, got {support!r}")
        loc, scale = moments("table", learned)
        missing = self.missing is not None
        columns = [Column(support, loc=m, scale=s) for m, s in zip(loc, scale, strict=True)]
        return Schema("table", found.x.shape[1:], columns, source="array", missing=missing)

    def _plan(self, schema: Schema, n: int) -> Mapping[str, Any]:
        """The recipe's plan for ``n`` training rows, with the requested latents and batch size."""
        plan = self.recipe(schema, self.size) if callable(self.recipe) else recipe_spec(self.recipe, schema, self.size)
        latents, training = dict(plan["latents"]), dict(plan.get("training", {}))
        if self.n_components is not None:
            if has_levels(plan):
                raise SpecError(
                    f"n_components must be None for a model with several levels of latents, and "
                    f"{self._recipe_name()} has '{latents['blocks']}'; change the blocks in a recipe function instead"
                )
            latents["size"] = int(self.n_components)
        if self.batch_size is not None:
            training["batch"] = int(self.batch_size)
        training.setdefault("batch", min(max(SMALLEST_BATCH, n // 16), Training().batch))
        return {**plan, "latents": latents, "training": training}

    def _recipe_name(self) -> str:
        return self.recipe if isinstance(self.recipe, str) else getattr(self.recipe, "__name__", "a function")

    def _checked(self, X: Any, reset: bool = False) -> np.ndarray:
        """Validate the rows by scikit-learn's rules; with ``reset``, validate the parameters too."""
        if reset:
            for name in ("n_components", "batch_size"):
                if getattr(self, name) is not None:
                    check_scalar(getattr(self, name), name, Integral, min_val=1)
            check_scalar(
                self.validation_fraction,
                "validation_fraction",
                Real,
                min_val=0,
                max_val=1,
                include_boundaries="neither",
            )
            if self.missing not in MISSING:
                raise DataError(f"missing must be None or 'nan', got {self.missing!r}")
        else:
            check_is_fitted(self)
        finite = "allow-nan" if self.missing == "nan" else True
        return validate_data(self, X, reset=reset, ensure_all_finite=finite, ensure_min_samples=2 if reset else 1)

    def _fitted(self) -> Model:
        check_is_fitted(self)
        return self.model_

    @property
    def _n_features_out(self) -> int:
        return sum(numel(event) for event in self.model_.vae.latents.events)

    def __sklearn_tags__(self) -> Tags:
        """Tags for scikit-learn."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.missing == "nan"
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """The state for pickling, with the model on the CPU, so that a machine without a GPU can load it."""
        state = dict(super().__getstate__())
        model = state.get("model_")
        if model is not None and model.device != "cpu":
            state["model_"] = Model(deepcopy(model.vae).cpu(), model.schema, model.config, "cpu")
        return state
