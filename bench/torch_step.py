"""The training step of `ctkd bench` in plain PyTorch: teacher resnet56, student resnet20, CTKD's global temperature.

A server: reads commands from standard input, one a line, and answers each with one line.
  run PART N  does N batches of a part of the work and prints the seconds that they took
  memory      prints the peak resident memory of this process in MiB
  version     prints PyTorch's version and its number of threads
  quit        ends
The parts: step (all of it), teacher (its forward pass), student (forward, backward, optimiser), data (the batches).
Options: --channels-last stores images and weights with their channels innermost, --bf16 is autocast to bfloat16,
--device NAME works on another device than the CPU. Float32 is float32 there too: TF32 stays off.
"""
import os
import sys
import time

try:
    import torch
except ImportError:
    sys.exit("PyTorch is not installed for " + sys.executable)
from torch import nn
from torch.nn import functional as F

BATCH, CLASSES, IMAGES, SIZE, PAD = 64, 100, 4096, 32, 4


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut; in place where the published code is."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return F.relu(out)


class ResNet(nn.Module):
    """The CIFAR network of depth 6 n + 2."""

    def __init__(self, depth):
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        widths = [16, 16, 32, 64]
        self.stages = nn.ModuleList(
            nn.Sequential(*[
                Block(inputs if i == 0 else outputs, outputs, 2 if i == 0 and inputs != outputs else 1)
                for i in range(blocks)])
            for inputs, outputs in zip(widths, widths[1:]))
        self.avgpool = nn.AvgPool2d(8)
        self.fc = nn.Linear(64, CLASSES)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        features = [self.relu(self.bn1(self.conv1(x)))]
        for stage in self.stages:
            features.append(stage(features[-1]))
        return features, self.fc(self.avgpool(features[-1]).flatten(1))


class Reverse(torch.autograd.Function):
    """The input itself; its gradient times -strength."""

    @staticmethod
    def forward(ctx, x, strength):
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -ctx.strength * gradient, None


class Bench:
    """Models, optimiser and the synthetic set: uint8, resident in memory."""

    def __init__(self, channels_last, bf16, device):
        torch.manual_seed(1)
        self.device = torch.device(device)
        self.bf16 = bf16
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.teacher = ResNet(56).to(self.device, memory_format=self.format).eval()
        self.student = ResNet(20).to(self.device, memory_format=self.format).train()
        self.theta = nn.Parameter(torch.tensor(1.0, device=self.device))
        self.optimiser = torch.optim.SGD(
            [*self.student.parameters(), self.theta], lr=0.05, momentum=0.9, weight_decay=5e-4)
        self.images = torch.randint(0, 256, (IMAGES, 3, SIZE, SIZE), dtype=torch.uint8).to(self.device)
        self.labels = torch.randint(0, CLASSES, (IMAGES,)).to(self.device)
        self.mean = torch.tensor([0.5071, 0.4867, 0.4408]).view(1, 3, 1, 1).to(self.device)
        self.std = torch.tensor([0.2675, 0.2565, 0.2761]).view(1, 3, 1, 1).to(self.device)
        self.wide = torch.arange(SIZE, device=self.device)
        self.sums = torch.zeros(4, dtype=torch.float64, device=self.device)
        self.at = IMAGES
        # Random weights alone make logits of thousands: their softmax has zeros, where the divergence's gradient is NaN.
        with torch.no_grad():
            self.teacher.fc.weight /= self.lesson(self.batch()[0]).std()

    def batch(self):
        """The next images and labels: cropped after padding, mirrored and normalised by one gather over all pixels."""
        if self.at + BATCH > IMAGES:
            self.at = 0
            self.order = torch.randperm(IMAGES).to(self.device)
            self.row, column = torch.randint(0, 2 * PAD + 1, (2, IMAGES)).to(self.device)
            mirrored = torch.randint(0, 2, (IMAGES,)).to(self.device)
            self.direction = 1 - 2 * mirrored
            self.column = column + mirrored * (SIZE - 1)
        now = slice(self.at, self.at + BATCH)
        self.at += BATCH
        order, wide = self.order[now], self.wide
        rows = self.row[now, None] + wide
        columns = self.column[now, None] + self.direction[now, None] * wide
        index = ((SIZE + 2 * PAD) * rows[:, :, None] + columns[:, None, :]).view(BATCH, 1, -1).expand(-1, 3, -1)
        padded = F.pad(self.images[order], (PAD, PAD, PAD, PAD)).flatten(2)
        images = padded.gather(2, index).view(BATCH, 3, SIZE, SIZE)
        images = (images.float() * (1 / 255) - self.mean) / self.std
        return images.contiguous(memory_format=self.format), self.labels[order]

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def lesson(self, images):
        """The teacher's logits."""
        with torch.no_grad(), self.autocast():
            return self.teacher(images)[1].float()

    def learn(self, loss):
        """Backward pass and optimiser."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()

    def logits(self, images):
        """The student's logits."""
        with self.autocast():
            return self.student(images)[1].float()

    def step(self):
        """One forward pass of each model, one backward pass, one step of the optimiser, metrics kept as sums."""
        images, labels = self.batch()
        logits, teacher = self.logits(images), self.lesson(images)
        t = 1 + 20 * torch.sigmoid(Reverse.apply(self.theta, 0.5))
        ce = F.cross_entropy(logits, labels)
        p, q = F.softmax(teacher / t, 1), F.log_softmax(logits / t, 1)
        kd = F.kl_div(q, p, reduction="sum") * t * t / BATCH
        self.learn(0.1 * ce + 0.9 * kd)
        with torch.no_grad():
            correct = (logits.argmax(1) == labels).sum()
            self.sums += torch.stack([correct.double(), t.double(), ce.double(), kd.double()])

    def parts(self):
        """What `run` can do, each on a batch."""
        images, labels = self.batch()
        return {
            "step": self.step,
            "teacher": lambda: self.lesson(images),
            "student": lambda: self.learn(F.cross_entropy(self.logits(images), labels)),
            "data": self.batch,
        }


def peak():
    """Peak resident memory of this process in MiB."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def main():
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))))
    device = sys.argv[sys.argv.index("--device") + 1] if "--device" in sys.argv else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    # As the published programs have it; it matters on a GPU alone.
    torch.backends.cudnn.benchmark = True
    # A GPU works on behind the host's back.
    wait = torch.cuda.synchronize if device != "cpu" else lambda: None
    parts = Bench("--channels-last" in sys.argv, "--bf16" in sys.argv, device).parts()
    for line in sys.stdin:
        command = line.split()
        if command[0] == "run":
            part, count = parts[command[1]], int(command[2])
            wait()
            start = time.perf_counter()
            for _ in range(count):
                part()
            wait()
            print(time.perf_counter() - start, flush=True)
        elif command[0] == "memory":
            print(peak(), flush=True)
        elif command[0] == "version":
            print(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads", flush=True)
        else:
            break


main()
