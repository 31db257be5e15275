using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using Google.Protobuf;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;

namespace Ctkd.Onnx;

/// <summary>A file is no network that can be run on images; the message says why.</summary>
public sealed class OnnxRefusedException(string message, Exception? inner = null) : Exception(message, inner);

/// <summary>Runs the network in an ONNX file with ONNX Runtime.</summary>
public sealed class OnnxNetwork : IDisposable
{
    private readonly InferenceSession session;
    private readonly string input, output;
    private readonly int[] shape;
    private bool isDisposed;

    /// <summary>Loads a network with one input, a batch of images in float32.</summary>
    /// <param name="path">The file; its weights may lie in files beside it (<see cref="ExternalFiles"/>).</param>
    /// <param name="threads">Threads of the processor.</param>
    /// <param name="cudaDevice">The index of a CUDA device, or -1 for the processor.</param>
    /// <param name="givesImages">Whether its output is images, [batch, channels, height, width], and not a row for each image.</param>
    /// <exception cref="OnnxRefusedException">The file is no such network, or the runtime refuses it.</exception>
    public OnnxNetwork(string path, int threads, int cudaDevice, bool givesImages = false)
    {
        CheckFile(path);
        try
        {
            using var options = new SessionOptions
            {
                IntraOpNumThreads = threads,
                InterOpNumThreads = 1,
                LogSeverityLevel = OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL,
            };
            // The engine's own threads share the processor.
            options.AddSessionConfigEntry("session.intra_op.allow_spinning", "0");
            if (cudaDevice >= 0)
                options.AppendExecutionProvider_CUDA(cudaDevice);
            session = new InferenceSession(path, options);
        }
        catch (OnnxRuntimeException problem)
        {
            throw new OnnxRefusedException(problem.Message, problem);
        }

        try
        {
            (input, shape) = InputOf(session.InputMetadata);
            output = OutputOf(session.OutputMetadata, givesImages);
        }
        catch
        {
            session.Dispose();
            throw;
        }
    }

    /// <summary>The version of the runtime.</summary>
    public static string Version => OrtEnv.Instance().GetVersionString();

    /// <summary>Whether the installed runtime computes on CUDA.</summary>
    public static bool HasCuda => OrtEnv.Instance().GetAvailableProviders().Contains("CUDAExecutionProvider");

    /// <summary>The name of the input.</summary>
    public string Input => input;

    /// <summary>The name of the output that is read.</summary>
    public string Output => output;

    /// <summary>Whether images are [N, H, W, 3] and not [N, 3, H, W].</summary>
    public bool ChannelsLast => shape[3] == 3 && shape[1] != 3;

    /// <summary>The only height of images that it takes; 0 for any.</summary>
    public int Height => ChannelsLast ? shape[1] : shape[2];

    /// <summary>The only width; 0 for any.</summary>
    public int Width => ChannelsLast ? shape[2] : shape[3];

    /// <summary>The only size of a batch that it takes; 0 for any.</summary>
    public int Batch => shape[0];

    /// <summary>Inputs and outputs with their shapes, for messages.</summary>
    public string Describe() =>
        $"{Described(session.InputMetadata)} -> {Described(session.OutputMetadata)}, of which '{output}' is read";

    /// <summary>Runs the network.</summary>
    /// <param name="images">Pixels in row-major order.</param>
    /// <param name="dimensions">Their shape, in the network's layout.</param>
    /// <returns>The output in row-major order, and its shape.</returns>
    /// <exception cref="OnnxRefusedException">The runtime refuses the images, or fails.</exception>
    public (float[] Values, int[] Shape) Run(float[] images, int[] dimensions)
    {
        ObjectDisposedException.ThrowIf(isDisposed, this);
        try
        {
            var value = NamedOnnxValue.CreateFromTensor(input, new DenseTensor<float>(images, dimensions));
            using var results = session.Run([value], [output]);
            var tensor = results.First().AsTensor<float>();
            return (tensor.ToArray(), tensor.Dimensions.ToArray());
        }
        catch (OnnxRuntimeException problem)
        {
            throw new OnnxRefusedException(problem.Message, problem);
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        isDisposed = true;
        session.Dispose();
    }

    /// <summary>Whether a file begins as an ONNX file does: the format's version, and then only fields that it has.</summary>
    public static bool IsOnnx(ReadOnlySpan<byte> start) => start.Length > 2 && start[0] == 0x08 && start[1] is > 0 and < 64 && IsField(start[2]);

    // ModelProto's fields have the numbers 1 to 26, and are numbers or have a length.
    private static bool IsField(byte tag) => (tag >> 3) is > 0 and < 16 && (tag & 7) is 0 or 2;

    /// Goes through the file's outermost fields, which must end where the file ends.
    private static void CheckFile(string path)
    {
        const uint graph = (7 << 3) | 2, opsets = (8 << 3) | 2;
        try
        {
            using var stream = File.OpenRead(path);
            using var fields = CodedInputStream.CreateWithLimits(stream, int.MaxValue, 100);
            bool hasGraph = false, hasOpset = false;
            for (uint tag = fields.ReadTag(); tag != 0; tag = fields.ReadTag())
            {
                hasGraph |= tag == graph;
                hasOpset |= tag == opsets;
                fields.SkipLastField();
            }

            if (!hasGraph || !hasOpset)
                throw new OnnxRefusedException($"it has no {(hasGraph ? "version of operators" : "graph")}");
        }
        catch (InvalidProtocolBufferException problem)
        {
            throw new OnnxRefusedException($"it is cut off or damaged: {problem.Message}", problem);
        }
    }

    private static (string, int[]) InputOf(IReadOnlyDictionary<string, NodeMetadata> inputs)
    {
        if (inputs.Count != 1)
            throw new OnnxRefusedException($"it has {inputs.Count} inputs, and images are one: {Described(inputs)}");
        var (name, metadata) = inputs.First();
        if (!metadata.IsTensor || metadata.ElementDataType != TensorElementType.Float || metadata.Dimensions.Length != 4)
            throw new OnnxRefusedException($"its input is no batch of images in float32: {Described(inputs)}");
        var shape = metadata.Dimensions.Select(length => Math.Max(length, 0)).ToArray();
        if (shape[1] is not (0 or 3) && shape[3] != 3)
            throw new OnnxRefusedException($"its input has no three channels: {Described(inputs)}");
        return (name, shape);
    }

    /// The first output that has images, or a row for each image.
    private static string OutputOf(IReadOnlyDictionary<string, NodeMetadata> outputs, bool images)
    {
        static bool IsImages(NodeMetadata metadata) =>
            metadata.IsTensor && metadata.ElementDataType == TensorElementType.Float && metadata.Dimensions.Length == 4;

        static bool IsRows(NodeMetadata metadata) =>
            metadata.IsTensor && metadata.ElementDataType == TensorElementType.Float
            && (metadata.Dimensions.Length == 2 || metadata.Dimensions.Length == 4 && metadata.Dimensions[2..].All(length => length == 1));

        var found = outputs.FirstOrDefault(entry => images ? IsImages(entry.Value) : IsRows(entry.Value));
        return found.Key ?? throw new OnnxRefusedException($"it has no output {(images ? "[batch, channels, height, width]" : "[batch, classes]")} in float32: {Described(outputs)}");
    }

    private static string Described(IReadOnlyDictionary<string, NodeMetadata> values) =>
        string.Join(", ", values.Select(entry =>
            $"'{entry.Key}' {(entry.Value.IsTensor ? $"{entry.Value.ElementDataType} [{string.Join(", ", entry.Value.Dimensions)}]" : entry.Value.OnnxValueType.ToString())}"));
}
