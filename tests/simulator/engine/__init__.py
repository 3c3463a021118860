# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated KTransformers engine.

build.py lays the source tree of the deployment guide's private v0.2.4 fork (as far as the guide touches it) and the
simulated weights. The other modules are the engine inside that tree: build.py copies them to ktransformers/simulated.
What they ask, print and refuse follows docs on the real engine's behaviour; what no source settles is marked ASSUMPTION.
"""
