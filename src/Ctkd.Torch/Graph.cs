using System.Runtime.InteropServices;

namespace Ctkd.Torch;

/// <summary>Recorded work of a CUDA device, which one call replays.</summary>
public sealed class Graph : SafeHandle
{
    private Graph(IntPtr handle) : base(IntPtr.Zero, ownsHandle: true) => SetHandle(handle);

    /// <inheritdoc/>
    public override bool IsInvalid => handle == IntPtr.Zero;

    /// <inheritdoc/>
    protected override bool ReleaseHandle()
    {
        Native.ctkd_graph_free(handle);
        return true;
    }

    /// <summary>Records what <paramref name="body"/> asks of the device.</summary>
    /// <param name="device">A CUDA device.</param>
    /// <param name="rehearse">Runs before it on the stream of the recording, and is done, not recorded.</param>
    /// <param name="body">Nothing of it is done: it must not wait for the device.</param>
    /// <exception cref="TorchException">The engine has no CUDA, or the device refused the recording.</exception>
    public static Graph Record(Device device, Action rehearse, Action body)
    {
        if (device == Device.Cpu)
            throw new TorchException("only CUDA devices record their work, and this is the CPU");
        var graph = new Graph(Native.Check(Native.ctkd_graph_new(device.Bits)));
        try
        {
            Native.Check(Native.ctkd_graph_enter(graph.handle));
            try
            {
                rehearse();
                // Nothing that was dropped before may be freed in the middle of the recording.
                GC.Collect();
                GC.WaitForPendingFinalizers();
                Native.Check(Native.ctkd_graph_begin(graph.handle));
                try
                {
                    body();
                }
                catch
                {
                    // Ends the recording; what is wrong is what the body threw.
                    _ = Native.ctkd_graph_end(graph.handle);
                    throw;
                }

                Native.Check(Native.ctkd_graph_end(graph.handle));
            }
            finally
            {
                Native.Check(Native.ctkd_graph_leave(graph.handle));
            }
        }
        catch
        {
            graph.Dispose();
            throw;
        }

        return graph;
    }

    /// <summary>Does the recorded work again; does not wait for it.</summary>
    public void Replay()
    {
        ObjectDisposedException.ThrowIf(IsClosed, this);
        Native.Check(Native.ctkd_graph_replay(handle));
        GC.KeepAlive(this);
    }
}
