#!/usr/bin/env bash
# vLLM itself was not run when this was written; the token ids that ask.py sends were compared with those of the training (export.json).
# Ask through ask.py; $chat
set -euo pipefail
cd "$$(dirname "$$0")"
exec vllm serve ./model --served-model-name $name --dtype $dtype --max-model-len $context --generation-config ./model --host 127.0.0.1 --port 8000 "$$@"
