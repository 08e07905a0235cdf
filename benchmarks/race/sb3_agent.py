"""stable-baselines3's SAC, and sbx's CrossQ, which has the same interface; race.py runs it."""

import importlib

import torch
from track import Track, read_entry

AGENTS = {"sac": ("stable_baselines3", "SAC"), "crossq": ("sbx", "CrossQ")}


def main() -> None:
    entry = read_entry()
    module, name = AGENTS[entry.agent]
    algorithm = getattr(importlib.import_module(module), name)
    torch.set_num_threads(entry.threads)
    torch.set_flush_denormal(True)
    track = Track(entry)
    model = algorithm("MlpPolicy", track.make_env(), seed=entry.seed)
    track.act = lambda observation, first: model.predict(observation, deterministic=True)[0]
    track.run(lambda: model.learn(10**9))


if __name__ == "__main__":
    main()
