using System.Reflection;
using System.Runtime.InteropServices;
using TorchSharp;
using static TorchSharp.torch;
using Tensor = TorchSharp.torch.Tensor;

namespace Ctkd.Engine;

/// <summary>
/// Lets a module compute with other tensors in place of its own. A tensor's handle is the address of libtorch's
/// <c>at::Tensor</c>, which is one pointer to the tensor itself: exchanging two pointers exchanges the tensors, so that gradients
/// reach those that were given, and buffers that the module updates are theirs.
/// </summary>
public static class BoundTensors
{
    private static readonly Lazy<bool> pointersCount = new(PointersCount);

    /// <summary>Runs the body while each of a module's own tensors is one that is given.</summary>
    /// <exception cref="InvalidOperationException">This libtorch keeps its tensors in another way.</exception>
    public static T With<T>(Tensor[] own, Tensor[] given, Func<T> body)
    {
        if (!pointersCount.Value)
            throw new InvalidOperationException("this libtorch keeps tensors in another way than TorchSharp 0.107: modules cannot be students here");
        return Exchanged(own, given, body);
    }

    /// <summary>
    /// Returns the first module, by its path, whose parameters live in native code, where nothing can be put in their place.
    /// </summary>
    public static string? NativePart(nn.Module module)
    {
        foreach (var (path, part) in module.named_modules().Prepend(("", module)))
        {
            if (part.GetType().Assembly != typeof(nn.Module).Assembly)
                continue;
            var held = new HashSet<nint>();
            for (var type = part.GetType(); type is not null && type != typeof(object); type = type.BaseType)
            {
                foreach (var field in type.GetFields(BindingFlags.Instance | BindingFlags.NonPublic | BindingFlags.Public | BindingFlags.DeclaredOnly))
                {
                    // The base class lists what the native module has; the parts that compute hold their own.
                    if (type != typeof(nn.Module) && typeof(Tensor).IsAssignableFrom(field.FieldType) && field.GetValue(part) is Tensor tensor)
                        held.Add(tensor.Handle);
                }
            }

            bool isList = part is TorchSharp.Modules.ParameterList or TorchSharp.Modules.ParameterDict;
            if (!isList && part.named_parameters(recurse: false).Any(p => !held.Contains(p.parameter.Handle)))
                return $"{(path == "" ? "the module" : path)} ({part.GetType().Name})";
        }

        return null;
    }

    private static T Exchanged<T>(Tensor[] own, Tensor[] given, Func<T> body)
    {
        var references = Array.ConvertAll(given, Dispatcher.Of);
        Exchange(own, references);
        try
        {
            return body();
        }
        finally
        {
            Exchange(own, references);
            Array.ForEach(references, Dispatcher.Drop);
            GC.KeepAlive(given);
        }
    }

    private static void Exchange(Tensor[] own, ulong[] references)
    {
        for (int i = 0; i < own.Length; i++)
        {
            nint place = own[i].Handle, other = (nint)references[i];
            nint mine = Marshal.ReadIntPtr(place);
            Marshal.WriteIntPtr(place, Marshal.ReadIntPtr(other));
            Marshal.WriteIntPtr(other, mine);
        }
    }

    private static bool PointersCount()
    {
        using Tensor one = ones(2), two = full(3, 2.0f);
        bool isTwo = Exchanged([one], [two], () => one.numel() == 3 && one.sum().item<float>() == 6);
        return isTwo && one.numel() == 2 && one.sum().item<float>() == 2 && two.numel() == 3;
    }
}
