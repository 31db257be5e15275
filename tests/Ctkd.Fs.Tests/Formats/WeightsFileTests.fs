module Ctkd.Fs.Tests.WeightsFileTests

open System
open System.IO
open System.Text
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders
open Ctkd.Fs.Tests.SafetensorsTests

let private model = Plans.tiny 4 3
let private expected = Weights.expected DType.Float32 (Model.declarations model)

/// The model's tensors, with the batch counters at 5.
let private stored: Lazy<StoredTensor list> =
    lazy
        (Tensor.scoped (fun () ->
            Plans.teacherWeights DType.Float32 model
            |> Tree.toList
            |> List.map (fun (name, x) ->
                if Layer.isCounter name then
                    tensor name "I64" [] (BitConverter.GetBytes 5L)
                else
                    Weights.store name x
            )
        ))

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

let tests =
    testList "WeightsFile" [
        test "the format is told by the contents, whatever the file is called" {
            inFolder (fun folder ->
                let path = Path.Combine(folder, "weights.bin")

                Safetensors.write path { Metadata = [ "epoch", "3" ]; Tensors = stored.Value } |> Error.orRaise

                let file = WeightsFile.read path |> Error.orRaise
                Must.equal ("safetensors", path) (file.Format, file.Path)
                Must.equal [ "epoch", "3" ] file.Metadata
                Must.equal (stored.Value |> List.map _.Name) (file.Found.Tensors |> List.map _.Name)

                TorchFile.write path stored.Value |> Error.orRaise
                let file = WeightsFile.read path |> Error.orRaise
                Must.equal "PyTorch (zip)" file.Format
                Must.equal (stored.Value |> List.map _.Name) (file.Found.Tensors |> List.map _.Name)
            )
        }

        test "what is often taken for weights is named" {
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
                Must.equal Damaged error.Kind
                Must.startWith "'x.pt' is " error.What
                Must.contain text error.What
        }

        test "a file without a state_dict says what it holds" {
            let file = TorchPickles.zipFile "}(Vepoch\nI3\nVoptimizer\n}u" []
            let error = errorOf (WeightsFile.parse "x.pt" file)
            Must.contain "'epoch', 'optimizer'" error.What
        }

        test "weights with any prefix fit, with the bytes of the file" {
            for prefix in [ ""; "module."; "module.student." ] do
                Tensor.scoped (fun () ->
                    let tree =
                        stored.Value |> List.map (fun t -> { t with Name = prefix + t.Name }) |> fit |> Error.orRaise

                    for t in stored.Value do
                        Must.equal (t.Bytes.ToArray()) (Tree.find t.Name tree |> Tensor.toBytes)
                )
        }

        test "floating-point numbers of any width and integers of any width become what is expected" {
            for dtype in [ DType.Float64; DType.Float16; DType.BFloat16 ] do
                Tensor.scoped (fun () ->
                    let file = retyped dtype stored.Value
                    let tree = fit file |> Error.orRaise
                    Must.equal expected (Weights.expectedOf tree)

                    for t in file do
                        Must.equal (Tensor.toFloats (Weights.load t)) (Tree.find t.Name tree |> Tensor.toFloats)
                )

            let narrow =
                stored.Value
                |> List.map (fun t ->
                    if t.DType = "I64" then
                        { t with DType = "I32"; Bytes = ReadOnlyMemory(BitConverter.GetBytes 5) }
                    else
                        t
                )

            Tensor.scoped (fun () ->
                let tree = fit narrow |> Error.orRaise

                for name in Tree.names tree |> List.filter Layer.isCounter do
                    Must.equal [| 5L |] (Tree.find name tree |> Tensor.toInt64s)
            )
        }

        test "batch counters that an old file lacks start at zero, and nothing else may be missing" {
            let old = stored.Value |> List.filter (fun t -> not (Layer.isCounter t.Name))
            Must.differ stored.Value.Length old.Length

            Tensor.scoped (fun () ->
                let tree = fit old |> Error.orRaise

                for name in Tree.names tree |> List.filter Layer.isCounter do
                    Must.equal [| 0L |] (Tree.find name tree |> Tensor.toInt64s)
            )

            let error = old |> List.filter (fun t -> t.Name <> "fc.bias") |> fit |> errorOf
            Must.equal Mismatch error.Kind
            Must.contain "1 difference(s):\n  - 'fc.bias' is missing" error.What
        }

        test "missing, unexpected and mis-shaped tensors are reported at once, with the nearest names" {
            let wrong =
                stored.Value
                |> List.map (fun t ->
                    if t.Name = "fc.bias" then { t with Name = "fc.bais" }
                    elif t.Name = "fc.weight" then { t with Shape = List.rev t.Shape }
                    else t
                )

            let error = errorOf (fit wrong)
            Must.contain "3 difference(s)" error.What
            Must.contain "'fc.bias' is missing (nearest: fc.bais)" error.What
            Must.contain "'fc.weight' is F32 [4, 3], expected F32 [3, 4]" error.What
            Must.contain "'fc.bais' is not expected (nearest: fc.bias)" error.What
        }

        test "numbers that are not finite are refused by the names of their tensors" {
            let before = Tensor.live ()

            for value in [ Single.NaN; Single.PositiveInfinity; Single.NegativeInfinity ] do
                let bad =
                    stored.Value
                    |> List.map (fun t ->
                        if t.Name = "fc.bias" then
                            let bytes = t.Bytes.ToArray()
                            BitConverter.GetBytes(value).CopyTo(bytes, 4)
                            { t with Bytes = ReadOnlyMemory bytes }
                        else
                            t
                    )

                let error = errorOf (fit bad)
                Must.equal Damaged error.Kind
                Must.contain "not finite: fc.bias" error.What

            // 1e300 exceeds float32.
            let wide =
                stored.Value
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

            Must.contain "not finite: fc.bias" ((errorOf (fit wide)).What)
            Must.equal before (Tensor.live ())
        }
    ]
