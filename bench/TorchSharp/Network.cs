using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;
using F = TorchSharp.torch.nn.functional;

namespace TorchSharpStep;

/// <summary>A convolution that multiplies in bfloat16 where it is told to: TorchSharp has no autocast.</summary>
internal sealed class Convolution : Module<Tensor, Tensor>
{
    private readonly Conv2d conv;
    private readonly bool bf16;
    private readonly long stride, padding;

    public Convolution(int inputs, int outputs, int kernel, int stride, bool bf16) : base("convolution")
    {
        this.bf16 = bf16;
        this.stride = stride;
        padding = kernel / 2;
        conv = Conv2d(inputs, outputs, kernel, stride, padding, bias: false);
        init.kaiming_normal_(conv.weight!, mode: init.FanInOut.FanOut, nonlinearity: init.NonlinearityType.ReLU);
        RegisterComponents();
    }

    public override Tensor forward(Tensor x) =>
        bf16
            ? F.conv2d(x.to(ScalarType.BFloat16), conv.weight!.to(ScalarType.BFloat16), null, [stride, stride], [padding, padding])
            : conv.forward(x);
}

/// <summary>Two 3 x 3 convolutions beside a shortcut; in place where the published code is.</summary>
internal sealed class Block : Module<Tensor, Tensor>
{
    private readonly Convolution conv1, conv2;
    private readonly BatchNorm2d bn1, bn2;
    private readonly ReLU relu;
    private readonly Sequential? downsample;

    public Block(int inputs, int outputs, int stride, bool bf16) : base("block")
    {
        conv1 = new Convolution(inputs, outputs, 3, stride, bf16);
        bn1 = BatchNorm2d(outputs);
        relu = ReLU(inplace: true);
        conv2 = new Convolution(outputs, outputs, 3, 1, bf16);
        bn2 = BatchNorm2d(outputs);
        if (stride != 1 || inputs != outputs)
            downsample = Sequential(("0", new Convolution(inputs, outputs, 1, stride, bf16)), ("1", BatchNorm2d(outputs)));
        RegisterComponents();
    }

    public override Tensor forward(Tensor x)
    {
        var y = relu.forward(bn1.forward(conv1.forward(x)));
        y = bn2.forward(conv2.forward(y));
        y = y.add_(downsample is null ? x : downsample.forward(x));
        return F.relu(y);
    }
}

/// <summary>The CIFAR network of depth 6 n + 2.</summary>
internal sealed class ResNet : Module<Tensor, Tensor>
{
    private readonly Convolution conv1;
    private readonly BatchNorm2d bn1;
    private readonly ReLU relu;
    private readonly Sequential blocks;
    private readonly AvgPool2d pool;
    private readonly Linear fc;

    public ResNet(int depth, int classes, bool bf16) : base("resnet")
    {
        int[] widths = [16, 16, 32, 64];
        conv1 = new Convolution(3, widths[0], 3, 1, bf16);
        bn1 = BatchNorm2d(widths[0]);
        relu = ReLU(inplace: true);
        var all = new List<(string, Module<Tensor, Tensor>)>();
        for (int stage = 1; stage < widths.Length; stage++)
        {
            for (int i = 0; i < (depth - 2) / 6; i++)
            {
                int inputs = i == 0 ? widths[stage - 1] : widths[stage], outputs = widths[stage];
                all.Add(($"{stage}-{i}", new Block(inputs, outputs, inputs == outputs ? 1 : 2, bf16)));
            }
        }

        blocks = Sequential(all);
        pool = AvgPool2d(8);
        fc = Linear(widths[^1], classes);
        RegisterComponents();
    }

    public Linear Classifier => fc;

    /// <summary>The logits, in float32.</summary>
    public override Tensor forward(Tensor x)
    {
        x = relu.forward(bn1.forward(conv1.forward(x)));
        x = pool.forward(blocks.forward(x)).flatten(1);
        return fc.forward(x.to(ScalarType.Float32));
    }
}

/// <summary>The input itself; its gradient times -strength.</summary>
internal sealed class Reverse : autograd.SingleTensorFunction<Reverse>
{
    public override string Name => "Reverse";

    public override Tensor forward(autograd.AutogradContext ctx, params object[] arguments)
    {
        var x = (Tensor)arguments[0];
        ctx.save_data("strength", arguments[1]);
        return x.view_as(x);
    }

    public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor gradient) =>
        [gradient * -(double)ctx.get_data("strength"), null!];
}
