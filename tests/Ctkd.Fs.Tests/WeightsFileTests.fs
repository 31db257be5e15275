module Ctkd.Fs.Tests.WeightsFileTests

open System
open System.IO
open System.Text
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders
open Ctkd.Fs.Tests.SafetensorsTests
open Xunit

let private model = Courses.tiny 4 3
let private expected = Weights.expected DType.Float32 (Model.declarations model)

/// The model's tensors, its normalisations' counters at 5.
let private stored: StoredTensor list =
    Tensor.scoped (fun () ->
        Courses.teacherWeights DType.Float32 model
        |> Tree.toList
        |> List.map (fun (name, x) ->
            if Layer.isCounter name then
                tensor name "I64" [] (BitConverter.GetBytes 5L)
            else
                Weights.store name x
        )
    )

let private parse (bytes: byte[]) : WeightsFile = WeightsFile.parse "here" bytes |> Error.orRaise

let private fit (tensors: StoredTensor list) : Result<Tree, Error> =
    TorchFile.encode tensors |> parse |> WeightsFile.fit "model tiny" Device.Cpu expected

let private retyped (dtype: DType) (tensors: StoredTensor list) : StoredTensor list =
    Tensor.scoped (fun () ->
        tensors
        |> List.map (fun t ->
            if t.DType = "F32" then
                Weights.load t |> Tensor.toType dtype |> Weights.store t.Name
            else
                t
        )
    )

[<Fact>]
let ``the format is told by the contents, whatever the file is called`` () =
    inFolder (fun folder ->
        let path = Path.Combine(folder, "weights.bin")
        Safetensors.write path { Metadata = [ "epoch", "3" ]; Tensors = stored } |> Error.orRaise
        let file = WeightsFile.read path |> Error.orRaise
        Assert.Equal(("safetensors", path), (file.Format, file.Path))
        Assert.Equal<(string * string) list>([ "epoch", "3" ], file.Metadata)
        Assert.Equal<string list>(stored |> List.map _.Name, file.Found.Tensors |> List.map _.Name)

        TorchFile.write path stored |> Error.orRaise
        let file = WeightsFile.read path |> Error.orRaise
        Assert.Equal("PyTorch (zip)", file.Format)
        Assert.Equal<string list>(stored |> List.map _.Name, file.Found.Tensors |> List.map _.Name)
    )

[<Fact>]
let ``what is often taken for weights is named`` () =
    for beginning, text in
        [
            "  <!DOCTYPE html>", "web page"
            "version https://git-lfs.github.com/spec/v1\n", "git-lfs"
            "\x80\003}.", "pickle"
            "\x89HDF\r\n", "HDF5"
            "hello, world", "neither"
            "x", "neither"
        ] do
        let error = errorOf (WeightsFile.parse "folder/x.pt" (Encoding.Latin1.GetBytes beginning))
        Assert.Equal(Damaged, error.Kind)
        Assert.StartsWith("'x.pt' is ", error.What)
        Assert.Contains(text, error.What)

[<Fact>]
let ``a file without a state_dict says what it holds`` () =
    let file = TorchPickles.zipFile "}(Vepoch\nI3\nVoptimizer\n}u" []
    let error = errorOf (WeightsFile.parse "x.pt" file)
    Assert.Contains("'epoch', 'optimizer'", error.What)

[<Fact>]
let ``weights with any prefix fit, with the bytes of the file`` () =
    for prefix in [ ""; "module."; "module.student." ] do
        Tensor.scoped (fun () ->
            let tree =
                stored |> List.map (fun t -> { t with Name = prefix + t.Name }) |> fit |> Error.orRaise

            for t in stored do
                Assert.Equal<byte[]>(t.Bytes.ToArray(), Tree.find t.Name tree |> Tensor.toBytes)
        )

[<Fact>]
let ``floating-point numbers of any width and integers of any width become what is expected`` () =
    for dtype in [ DType.Float64; DType.Float16; DType.BFloat16 ] do
        Tensor.scoped (fun () ->
            let file = retyped dtype stored
            let tree = fit file |> Error.orRaise
            Assert.Equal<Weights.Expected list>(expected, Weights.expectedOf tree)

            for t in file do
                Assert.Equal<float[]>(
                    Tensor.toFloats (Weights.load t),
                    Tree.find t.Name tree |> Tensor.toFloats
                )
        )

    let narrow =
        stored
        |> List.map (fun t ->
            if t.DType = "I64" then
                { t with DType = "I32"; Bytes = ReadOnlyMemory(BitConverter.GetBytes 5) }
            else
                t
        )

    Tensor.scoped (fun () ->
        let tree = fit narrow |> Error.orRaise

        for name in Tree.names tree |> List.filter Layer.isCounter do
            Assert.Equal<int64[]>([| 5L |], Tree.find name tree |> Tensor.toInt64s)
    )

[<Fact>]
let ``batch counters that an old file lacks start at zero, and nothing else may be missing`` () =
    let old = stored |> List.filter (fun t -> not (Layer.isCounter t.Name))
    Assert.NotEqual(stored.Length, old.Length)

    Tensor.scoped (fun () ->
        let tree = fit old |> Error.orRaise

        for name in Tree.names tree |> List.filter Layer.isCounter do
            Assert.Equal<int64[]>([| 0L |], Tree.find name tree |> Tensor.toInt64s)
    )

    let error = old |> List.filter (fun t -> t.Name <> "fc.bias") |> fit |> errorOf
    Assert.Equal(Mismatch, error.Kind)
    Assert.Contains("1 difference(s):\n  - 'fc.bias' is missing", error.What)

[<Fact>]
let ``missing, unexpected and mis-shaped tensors are reported at once, with the nearest names`` () =
    let wrong =
        stored
        |> List.map (fun t ->
            if t.Name = "fc.bias" then { t with Name = "fc.bais" }
            elif t.Name = "fc.weight" then { t with Shape = List.rev t.Shape }
            else t
        )

    let error = errorOf (fit wrong)
    Assert.Contains("3 difference(s)", error.What)
    Assert.Contains("'fc.bias' is missing (nearest: fc.bais)", error.What)
    Assert.Contains("'fc.weight' is F32 [4, 3], expected F32 [3, 4]", error.What)
    Assert.Contains("'fc.bais' is not expected (nearest: fc.bias)", error.What)

[<Fact>]
let ``numbers that are not finite are refused by the names of their tensors`` () =
    let before = Tensor.live ()

    for value in [ Single.NaN; Single.PositiveInfinity; Single.NegativeInfinity ] do
        let bad =
            stored
            |> List.map (fun t ->
                if t.Name = "fc.bias" then
                    let bytes = t.Bytes.ToArray()
                    BitConverter.GetBytes(value).CopyTo(bytes, 4)
                    { t with Bytes = ReadOnlyMemory bytes }
                else
                    t
            )

        let error = errorOf (fit bad)
        Assert.Equal(Damaged, error.Kind)
        Assert.Contains("not finite: fc.bias", error.What)

    // 1e300 has no place in float32.
    let wide =
        stored
        |> List.map (fun t ->
            if t.Name = "fc.bias" then
                tensor
                    t.Name
                    "F64"
                    t.Shape
                    (Array.init 3 (fun _ -> BitConverter.GetBytes 1e300) |> Array.concat)
            else
                t
        )

    Assert.Contains("not finite: fc.bias", (errorOf (fit wide)).What)
    Assert.Equal(before, Tensor.live ())
