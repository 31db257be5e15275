using TorchSharp;
using static TorchSharp.torch;
using F = TorchSharp.torch.nn.functional;

namespace TorchSharpStep;

/// <summary>Models, optimiser and the synthetic set: bytes, resident in memory. The same work as torch_step.py's.</summary>
internal sealed class Work
{
    private const int Batch = 64, Classes = 100, Images = 4096, Size = 32, Pad = 4;

    private readonly ResNet teacher, student;
    private readonly TorchSharp.Modules.Parameter theta;
    private readonly optim.Optimizer optimiser;
    private readonly Tensor images, labels, mean, std, wide, sums;
    private readonly Device device;
    private (Tensor Order, Tensor Row, Tensor Column, Tensor Direction)? epoch;
    private int at = Images;

    public Work(bool bf16, Device device)
    {
        random.manual_seed(1);
        this.device = device;
        teacher = new ResNet(56, Classes, bf16);
        teacher.to(device).eval();
        student = new ResNet(20, Classes, bf16);
        student.to(device).train();
        theta = nn.Parameter(tensor(1f, device: device));
        optimiser = optim.SGD([.. student.parameters(), theta], 0.05, momentum: 0.9, weight_decay: 5e-4);
        images = randint(0, 256, [Images, 3, Size, Size], ScalarType.Byte).to(device);
        labels = randint(0, Classes, [Images], ScalarType.Int64).to(device);
        mean = tensor(new[] { 0.5071f, 0.4867f, 0.4408f }).view(1, 3, 1, 1).to(device);
        std = tensor(new[] { 0.2675f, 0.2565f, 0.2761f }).view(1, 3, 1, 1).to(device);
        wide = arange(Size, device: device);
        sums = zeros(4, ScalarType.Float64, device);
        var (x, y) = Next();
        // Random weights alone make logits of thousands: their softmax has zeros, where the divergence's gradient is NaN.
        using (no_grad())
            teacher.Classifier.weight!.div_(Lesson(x).std());
        Parts = new()
        {
            ["step"] = Step,
            ["teacher"] = () => Lesson(x),
            ["student"] = () => Learn(F.cross_entropy(student.forward(x), y)),
            ["data"] = () => Next(),
        };
    }

    /// <summary>What can be run, each on a batch.</summary>
    public Dictionary<string, Action> Parts { get; }

    /// <summary>Order, cuts and mirrors of the next epoch, which outlive the step's scope.</summary>
    private (Tensor, Tensor, Tensor, Tensor) Plan()
    {
        if (epoch is var (a, b, c, d))
            foreach (var old in new[] { a, b, c, d })
                old.Dispose();
        Tensor Draw(long most) => randint(0, most, [Images], ScalarType.Int64).to(device);
        var order = randperm(Images, ScalarType.Int64).to(device);
        var mirrored = Draw(2);
        var column = Draw(2 * Pad + 1) + mirrored * (Size - 1);
        return (Keep(order), Keep(Draw(2 * Pad + 1)), Keep(column), Keep(1 - 2 * mirrored));
    }

    private static Tensor Keep(Tensor x) => x.DetachFromDisposeScope();

    /// <summary>The next images and labels: cropped after padding, mirrored and normalised by one gather over all pixels.</summary>
    private (Tensor Images, Tensor Labels) Next()
    {
        if (epoch is null || at + Batch > Images)
        {
            epoch = Plan();
            at = 0;
        }

        Tensor Now(Tensor x) => x.slice(0, at, at + Batch, 1);
        var (orders, row, column, direction) = epoch.Value;
        var order = Now(orders);
        var rows = Now(row).unsqueeze(1) + wide;
        var columns = Now(column).unsqueeze(1) + Now(direction).unsqueeze(1) * wide;
        var index = ((Size + 2 * Pad) * rows.unsqueeze(2) + columns.unsqueeze(1)).view(Batch, 1, -1).expand(-1, 3, -1);
        var padded = F.pad(images.index_select(0, order), [Pad, Pad, Pad, Pad]).flatten(2);
        var cut = padded.gather(2, index).view(Batch, 3, Size, Size).to(ScalarType.Float32);
        var result = ((cut * (1.0 / 255) - mean) / std, labels.index_select(0, order));
        at += Batch;
        return result;
    }

    /// <summary>The teacher's logits.</summary>
    private Tensor Lesson(Tensor x)
    {
        using (no_grad())
            return teacher.forward(x);
    }

    /// <summary>Backward pass and optimiser.</summary>
    private void Learn(Tensor loss)
    {
        optimiser.zero_grad();
        loss.backward();
        optimiser.step();
    }

    /// <summary>One forward pass of each model, one backward pass, one step of the optimiser, metrics kept as sums.</summary>
    private void Step()
    {
        var (x, y) = Next();
        var logits = student.forward(x);
        var lesson = Lesson(x);
        var t = 1 + 20 * sigmoid(Reverse.apply(theta, 0.5));
        var ce = F.cross_entropy(logits, y);
        var (p, q) = (F.softmax(lesson / t, 1), F.log_softmax(logits / t, 1));
        var kd = F.kl_div(q, p, log_target: false, reduction: nn.Reduction.Sum) * t * t / Batch;
        Learn(0.1 * ce + 0.9 * kd);
        using (no_grad())
        {
            var correct = (logits.argmax(1) == y).sum();
            sums.add_(stack([correct.to(ScalarType.Float64), t.to(ScalarType.Float64), ce.to(ScalarType.Float64), kd.to(ScalarType.Float64)]));
        }
    }
}
