"""Optuna's samplers as configs. `build(seed)` gives a fresh one."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import optuna

from pipeline.types import require


@dataclass(frozen=True)
class Tpe:
    """Multi-objective tree-structured Parzen estimator (Ozaki et al. 2022), joint over the active axes.

    `multivariate` models the axes together and `group` splits a conditional space into its active sets.
    """

    startup: int = 10
    candidates: int = 24
    multivariate: bool = True
    group: bool = True

    def __post_init__(self) -> None:
        require(self.startup >= 1, "startup", "be >= 1", self.startup)
        require(self.candidates >= 1, "candidates", "be >= 1", self.candidates)
        require(
            self.multivariate or not self.group, "group", "be false unless multivariate is true", self.group
        )

    def build(self, seed: int) -> optuna.samplers.BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(
                n_startup_trials=self.startup,
                n_ei_candidates=self.candidates,
                multivariate=self.multivariate,
                group=self.group,
                seed=seed,
            )


@dataclass(frozen=True)
class Nsga2:
    """Non-dominated sorting genetic algorithm II (Deb et al. 2002)."""

    population: int = 20

    def __post_init__(self) -> None:
        require(self.population >= 2, "population", "be >= 2", self.population)

    def build(self, seed: int) -> optuna.samplers.BaseSampler:
        return optuna.samplers.NSGAIISampler(population_size=self.population, seed=seed)


@dataclass(frozen=True)
class Gp:
    """Gaussian process with expected hypervolume improvement: few, dear trials; 1 to 2 s per suggestion."""

    startup: int = 10

    def __post_init__(self) -> None:
        require(self.startup >= 1, "startup", "be >= 1", self.startup)

    def build(self, seed: int) -> optuna.samplers.BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.GPSampler(
                n_startup_trials=self.startup,
                seed=seed,
                deterministic_objective=True,
            )


@dataclass(frozen=True)
class Random:
    """Uniform over the space: the baseline that every sampler must beat."""

    def build(self, seed: int) -> optuna.samplers.BaseSampler:
        return optuna.samplers.RandomSampler(seed=seed)


@dataclass(frozen=True)
class Grid:
    """Every point of a discrete space once, in random order: for the papers' tables. One worker; more may overlap."""

    def build(self, seed: int) -> optuna.samplers.BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.BruteForceSampler(seed=seed)
