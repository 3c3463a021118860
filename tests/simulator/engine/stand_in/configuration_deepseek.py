# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands in for the model's own configuration_deepseek.py, which the weight exports of the simulation lack.

The real file is DeepSeek's. transformers copies it beside its modules and imports the class that config.json's auto_map names.
"""

from transformers.configuration_utils import PretrainedConfig


class DeepseekV3Config(PretrainedConfig):
    """Takes every key of config.json as an attribute."""

    model_type = "deepseek_v3"
    keys_to_ignore_at_inference = ["past_key_values"]

    def __init__(self, **values):
        super().__init__(**values)
