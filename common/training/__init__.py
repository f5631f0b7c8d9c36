"""Everything a training script needs besides its method: a run, its epochs, the optimizer, evaluation in batches."""

from common.training.checkpoint import load_model
from common.training.device import memory_format, on_device
from common.training.evaluation import EVALUATION_SEED, batched, evaluate
from common.training.optimizer import Optimizer, batch_size, learning_rate, one_cycle
from common.training.run import Epoch, Run, start
