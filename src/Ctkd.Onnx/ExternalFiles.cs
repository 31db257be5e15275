using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using Google.Protobuf;

namespace Ctkd.Onnx;

/// <summary>The files beside an ONNX file that hold some of its tensors.</summary>
public static class ExternalFiles
{
    /// <summary>Returns the files that a file's tensors name, relative to its folder, each once and in order.</summary>
    /// <param name="path">The ONNX file.</param>
    /// <exception cref="OnnxRefusedException">The file is damaged, or names a file outside its folder.</exception>
    public static IReadOnlyList<string> Of(string path)
    {
        try
        {
            using var stream = File.OpenRead(path);
            using var fields = CodedInputStream.CreateWithLimits(stream, int.MaxValue, 100);
            var model = External.ModelProto.Parser.WithDiscardUnknownFields(true).ParseFrom(fields);
            var graphs = model.TrainingInfo.SelectMany(info => new[] { info.Initialization, info.Algorithm }).Prepend(model.Graph);
            var nodes = model.Functions.SelectMany(function => function.Node);
            var attributes = model.Functions.SelectMany(function => function.AttributeProto);
            string folder = Path.GetDirectoryName(Path.GetFullPath(path))!;
            return graphs.SelectMany(Tensors).Concat(nodes.SelectMany(Tensors)).Concat(attributes.SelectMany(Tensors))
                .Where(tensor => tensor.DataLocation == External.TensorProto.Types.DataLocation.External)
                .Select(tensor => Location(tensor, folder))
                .Distinct()
                .Order(StringComparer.Ordinal)
                .ToArray();
        }
        catch (InvalidProtocolBufferException problem)
        {
            throw new OnnxRefusedException($"it is cut off or damaged: {problem.Message}", problem);
        }
    }

    private static string Location(External.TensorProto tensor, string folder)
    {
        string name = tensor.ExternalData.LastOrDefault(entry => entry.Key == "location")?.Value ?? "";
        if (name.Length == 0 || name.Contains('\0'))
            throw new OnnxRefusedException("a tensor lies in a file beside it, and its place is not named");
        string root = Path.EndsInDirectorySeparator(folder) ? folder : folder + Path.DirectorySeparatorChar;
        bool climbs = name.Split('/', '\\').Contains("..");
        if (climbs || Path.IsPathRooted(name) || !Path.GetFullPath(Path.Combine(folder, name)).StartsWith(root, StringComparison.Ordinal))
            throw new OnnxRefusedException($"a tensor lies in '{name}', which is outside the file's folder");
        return name;
    }

    private static IEnumerable<External.TensorProto> Tensors(External.GraphProto? graph) =>
        graph is null
            ? []
            : graph.Initializer.Concat(graph.SparseInitializer.SelectMany(Tensors)).Concat(graph.Node.SelectMany(Tensors));

    private static IEnumerable<External.TensorProto> Tensors(External.NodeProto node) => node.Attribute.SelectMany(Tensors);

    private static IEnumerable<External.TensorProto> Tensors(External.AttributeProto attribute) =>
        attribute.Tensors.Append(attribute.T)
            .Concat(attribute.SparseTensors.Append(attribute.SparseTensor).SelectMany(Tensors))
            .Concat(attribute.Graphs.Append(attribute.G).SelectMany(Tensors))
            .Where(tensor => tensor is not null);

    private static IEnumerable<External.TensorProto> Tensors(External.SparseTensorProto? sparse) =>
        sparse is null ? [] : new[] { sparse.Values, sparse.Indices }.Where(tensor => tensor is not null);
}
