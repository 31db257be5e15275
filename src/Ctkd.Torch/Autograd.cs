namespace Ctkd.Torch;

/// <summary>Gradients in their pure form, grad mode and autocast.</summary>
public static unsafe class Autograd
{
    /// <summary>d(sum of outputs) / d(inputs); null where the outputs do not depend on an input.</summary>
    public static Tensor?[] Gradients(ReadOnlySpan<Tensor> outputs, ReadOnlySpan<Tensor> inputs, bool retainGraph, bool createGraph)
    {
        var from = Pointers(outputs);
        var to = Pointers(inputs);
        var results = new IntPtr[inputs.Length];
        fixed (IntPtr* f = from, t = to, r = results)
            Native.Check(Native.ctkd_grad(f, from.Length, t, to.Length, retainGraph ? 1 : 0, createGraph ? 1 : 0, r));
        foreach (var tensor in outputs)
            GC.KeepAlive(tensor);
        foreach (var tensor in inputs)
            GC.KeepAlive(tensor);

        var gradients = new Tensor?[results.Length];
        for (int i = 0; i < results.Length; i++)
            gradients[i] = results[i] == IntPtr.Zero ? null : Tensor.Wrap(results[i]);
        return gradients;
    }

    private static IntPtr[] Pointers(ReadOnlySpan<Tensor> tensors)
    {
        var pointers = new IntPtr[tensors.Length];
        for (int i = 0; i < pointers.Length; i++)
            pointers[i] = tensors[i].Pointer;
        return pointers;
    }

    /// <summary>Switches the recording of operations for this thread; answers what was in force before.</summary>
    public static bool SetEnabled(bool enabled) => Native.ctkd_grad_mode(enabled ? 1 : 0) != 0;

    /// <summary>Switches autocast to <paramref name="dtype"/> for one kind of device; answers what was in force before.</summary>
    public static bool SetAutocast(Device device, bool enabled, DType dtype) =>
        Native.Check(Native.ctkd_autocast(device.Kind, enabled ? 1 : 0, (int)dtype)) != 0;
}
