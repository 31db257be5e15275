#pragma warning disable
namespace Ctkd.Engine;
public sealed class CudaGraph : IDisposable { public static CudaGraph Record(int device, Action rehearse, Action body) => throw new System.Runtime.InteropServices.ExternalException("not yet"); public void Replay() {} public void Dispose() {} }
public static class Cuda { public static long Memory(int device) => 0; public static void SetDeterministic(bool on) {} }
