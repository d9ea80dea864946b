"""A scikit-learn estimator: a VAE that stands in pipelines and grid searches.

The rest of Ladle does not need this module, and ``import ladle`` does not load it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, DensityMixin, TransformerMixin
from sklearn.utils import Tags, check_array, check_random_state, check_scalar
from sklearn.utils.validation import check_is_fitted, validate_data

from ladle.data import Batch, DataError, Dataset, Schema, read
from ladle.data.arrays import arrange
from ladle.data.conform import moments
from ladle.data.content import Content, Request
from ladle.data.schema import SUPPORTS
from ladle.inference.evidence import joined
from ladle.inference.importance import importance, rows
from ladle.machine import choose
from ladle.recipes import recipe as recipe_spec
from ladle.recipes.assemble import Training, assemble
from ladle.seeds import key
from ladle.shapes import numel
from ladle.spec import SpecError
from ladle.store.folder import Model, describe
from ladle.tasks.common import each_batch, items
from ladle.tasks.encode import decode, encode
from ladle.tasks.sample import sample
from ladle.training.fit import fit
from ladle.training.progress import Show

MISSING = (None, "nan")
SMALLEST_BATCH = 16


class VAE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, DensityMixin, BaseEstimator):
    """A variational autoencoder of the rows of a table: an embedding, and a density that can be drawn from.

    ::

        X --transform--> z --inverse_transform--> E[x|z]          score_samples: log p(x)          sample: x ~ p

    Everything is computed, and given back, in 32-bit floating point. The columns may have any units. After a
    ``StandardScaler``, which blows up columns that hardly vary, ``recipe="sigma_vae"``, with one scale for all of them,
    tends to give better embeddings: the others spend their latents where they can be most exact.

    Args:
        n_components: the number of latents; ``None`` takes the recipe's, at most as many as there are columns.
        recipe: the name of a recipe (``ladle parts`` lists them), or a function ``(schema, size) -> plan`` that
            returns what :func:`ladle.recipe` gives, changed to taste.
        size: the dial of the nets: ``"xs"``, ``"s"``, ``"m"`` or ``"l"``.
        support: where the data lies: ``"binary"`` {0, 1}, ``"bytes"`` {0..255} or ``"real"``. ``"auto"`` takes binary
            where nothing but 0 and 1 is seen in ``fit``, bytes for other arrays of type uint8, and real for the rest.
        missing: ``"nan"`` to read NaN as missing: what is encoded and scored is then the part of a row that is there,
            and ``inverse_transform(transform(X))`` fills in the rest. ``None`` refuses NaN.
        epochs: passes over the training rows. The learning rate falls to its end over them; training ends sooner
            where the validation rows have long stopped gaining.
        batch_size: rows per step; ``None`` takes the recipe's, where it names one, or else a sixteenth of the training
            rows, but from 16 to 128: so 100 epochs are steps enough where rows are few.
        validation_fraction: of the rows; they are held out of ``fit`` to choose the best weights. At least one is.
        importance_samples: draws per row for ``score_samples``; more make its bound tighter.
        random_state: of the weights, the held-out rows, the training and ``sample``: an int to repeat them, a
            ``RandomState``, or ``None`` for NumPy's own.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``. A pickled estimator is on the CPU.
        verbose: show the training on stderr.

    Attributes:
        model_: the fitted :class:`ladle.Model`; every function of Ladle takes it.
        bound_: the evidence lower bound on log p(x) of the validation rows, the mean in nats, with one draw per row.
            A plain autoencoder has no such bound: of it, log p(x|z).
        n_iter_: passes over the training rows, the last one counted whole.
        n_features_in_: the number of columns.
        feature_names_in_: their names, where X has such.

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
        """Learn the density of the rows.

        Args:
            X: ``(n_samples, n_features)`` numbers, at least 2 rows.
            y: ignored.

        Raises:
            ValueError: for data or parameters that cannot be used.
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

        told = {"recipe": self._recipe_name(), "size": self.size, "epochs": float(self.epochs), "seed": seed}
        vae = assembly.model.eval().requires_grad_(False)
        self.model_ = Model(vae, schema, describe(assembly, data, told), choose(self.device).device)
        self.bound_, self.n_iter_ = -step.nats, int(np.ceil(step.epoch))
        return self

    def transform(self, X: Any) -> np.ndarray:
        """The embedding of every row, the centre of q(z|x): deterministic, never a random sample.

        Returns:
            ``(n_samples, n_components)`` float32.
        """
        return encode(self._fitted(), self._checked(X))

    def inverse_transform(self, X: Any) -> np.ndarray:
        """The expectation of p(x|z) for every row of latents, in the data's own units; for binary data, probabilities.

        Args:
            X: ``(n_samples, n_components)``, as :meth:`transform` gives.

        Returns:
            ``(n_samples, n_features)`` float32.
        """
        return decode(self._fitted(), check_array(X, dtype=np.float32, input_name="X"))

    def score_samples(self, X: Any) -> np.ndarray:
        """How likely each row is: the importance-weighted bound on log p(x), in nats; higher is likelier.

        It is a lower bound in expectation. Its noise is keyed by what is in the row, so that a row's score depends on
        neither its place nor its neighbours, and is the same at every call. Log-probabilities of binary data and of
        bytes are at most 0; log-densities of real data are per unit of the data, and may be positive.

        Returns:
            ``(n_samples,)`` float32.

        Raises:
            NotAvailable: for a plain autoencoder, which has no density.

        Reference:
            Burda, Grosse, Salakhutdinov: "Importance Weighted Autoencoders", 2016.
        """
        model, samples = self._fitted(), self.importance_samples
        check_scalar(samples, "importance_samples", Integral, min_val=1)
        batches = each_batch(model, items(model, self._checked(X)), rows(model.vae, samples))
        found = importance(model.vae, map(keyed_by_content, batches), samples=samples)
        return -joined(found).nats.astype(np.float32)

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of :meth:`score_samples`; of rows that were held out, it is what a grid search should maximise.

        Args:
            X: ``(n_samples, n_features)``.
            y: ignored.
        """
        return float(self.score_samples(X).mean(dtype=np.float64))

    def sample(self, n_samples: int = 1, random_state: int | np.random.RandomState | None = None) -> np.ndarray:
        """Rows drawn from the model: z from the prior, then x from p(x|z).

        As from scikit-learn's ``KernelDensity``, the rows alone come back (``GaussianMixture`` adds the component that
        each is from; there are none here), in random draws and not expectations.

        Args:
            n_samples: how many.
            random_state: of the draws; ``None`` takes the estimator's own, so that with an int there every call
                gives the same rows.

        Returns:
            ``(n_samples, n_features)`` float32, in the data's own units.
        """
        model = self._fitted()
        check_scalar(n_samples, "n_samples", Integral, min_val=1)
        rng = check_random_state(self.random_state if random_state is None else random_state)
        return sample(model, n_samples, seed=int(rng.randint(2**31 - 1)), noise=True)

    # ------------------------------------------------------------------------------------------ what it is made of

    def _schema(self, content: Content, train: np.ndarray) -> Schema:
        """What the rows are, by the training rows; ``missing`` stays as asked for, whatever these rows lack."""
        found, learned = content.items, content.items.take(train)
        support = self.support
        if support == "auto":
            seen = found.x if found.observed is None else found.x[found.observed]
            support = "binary" if np.isin(seen, (0, 1)).all() else content.support
        elif support not in SUPPORTS:
            raise DataError(f"support must be auto, {', '.join(SUPPORTS)}, got {support!r}")
        loc, scale = moments("table", learned)
        missing = self.missing is not None
        return Schema("table", found.x.shape[1:], support, loc=loc, scale=scale, source="array", missing=missing)

    def _plan(self, schema: Schema, n: int) -> Mapping[str, Any]:
        """The recipe's plan for ``n`` training rows of this data, with the latents and the batches asked for."""
        plan = self.recipe(schema, self.size) if callable(self.recipe) else recipe_spec(self.recipe, schema, self.size)
        latents, training = dict(plan["latents"]), dict(plan.get("training", {}))
        if self.n_components is not None:
            if "blocks" in latents:
                raise SpecError(
                    f"n_components counts the latents of one level, but {self._recipe_name()} has the levels "
                    f"'{latents['blocks']}'; leave it None, or give a recipe that returns other blocks"
                )
            latents["size"] = int(self.n_components)
        if self.batch_size is not None:
            training["batch"] = int(self.batch_size)
        training.setdefault("batch", min(max(SMALLEST_BATCH, n // 16), Training().batch))
        return {**plan, "latents": latents, "training": training}

    def _recipe_name(self) -> str:
        return self.recipe if isinstance(self.recipe, str) else getattr(self.recipe, "__name__", "a function")

    def _checked(self, X: Any, reset: bool = False) -> np.ndarray:
        """Rows that scikit-learn's rules allow; with ``reset``, the parameters of ``fit`` too."""
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
        """What scikit-learn should know."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.missing == "nan"
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: the model on the CPU, so that a machine without a GPU can read it."""
        state = dict(super().__getstate__())
        model = state.get("model_")
        if model is not None and model.device != "cpu":
            state["model_"] = Model(deepcopy(model.vae).cpu(), model.schema, model.config, "cpu")
        return state


def keyed_by_content(batch: Batch) -> Batch:
    """The batch with its items numbered by what they hold: evaluation keys their noise by these numbers.

    >>> x = torch.tensor([[1.0, 0.0], [2.0, 3.0], [1.0, -0.0]])
    >>> a, b, c = keyed_by_content(Batch(x, None, {}, torch.arange(3))).index
    >>> bool(a == c), bool(a == b)
    (True, False)
    """
    x = (batch.x + 0.0).cpu().numpy()  # -0 + 0 is 0: equal rows, equal bytes
    numbers = torch.tensor([key(row.tobytes().hex()) for row in x], device=batch.index.device)
    return batch._replace(index=numbers)
