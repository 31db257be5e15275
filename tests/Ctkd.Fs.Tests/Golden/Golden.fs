/// The reference numbers of tests/golden: their inputs, their files, and the comparison with ours.
module Ctkd.Fs.Tests.Golden

open System
open System.IO
open System.Text
open System.Text.Json
open Expecto
open Ctkd.Fs

// ---- inputs and weights by formula ------------------------------------------------------------------

let private crc32 (key: string) : uint32 =
    let bit (crc: uint32) _ = if crc &&& 1u = 1u then (crc >>> 1) ^^^ 0xEDB88320u else crc >>> 1
    let next crc (value: byte) = Seq.fold bit (crc ^^^ uint32 value) (seq { 1..8 })
    ~~~(Encoding.UTF8.GetBytes key |> Array.fold next 0xFFFFFFFFu)

let private splitmix64 (x: uint64) : uint64 =
    let x = x + 0x9E3779B97F4A7C15UL
    let z = (x ^^^ (x >>> 30)) * 0xBF58476D1CE4E5B9UL
    let z = (z ^^^ (z >>> 27)) * 0x94D049BB133111EBUL
    z ^^^ (z >>> 31)

/// The first numbers of a key, in [-1, 1).
let units (key: string) (count: int) : float[] =
    let start = uint64 (crc32 key) <<< 32
    let at i = float (splitmix64 (start + uint64 i) >>> 11) / 9007199254740992.0 * 2.0 - 1.0
    if count > 100_000 then Array.Parallel.init count at else Array.init count at

/// The numbers of a key as a tensor: unit * scale + shift.
let probe (dtype: DType) (key: string) (shape: int list) (scale: float) (shift: float) : Tensor =
    let values = units key (List.fold (*) 1 shape)

    for i in 0 .. values.Length - 1 do
        values[i] <- values[i] * scale + shift

    Tensor.ofFloats dtype shape values

/// Labels below the number of classes.
let labels (key: string) (count: int) (classes: int) : Tensor =
    units key count
    |> Array.map (fun u -> int64 (floor ((u + 1.0) / 2.0 * float classes)))
    |> Tensor.ofInt64s [ count ]

/// The weights of a model; `prefix` precedes the keys.
let weights (dtype: DType) (prefix: string) (model: Model) : Tree =
    let value (d: Declaration) =
        let ends (suffix: string) = d.Name.EndsWith(suffix, StringComparison.Ordinal)

        let scale, shift =
            if ends "num_batches_tracked" then 0.0, 0.0
            elif ends "running_mean" || ends "bias" then 0.1, 0.0
            elif ends "running_var" then 0.5, 1.0
            elif d.Shape.Length = 1 then 0.1, 0.5
            else sqrt (6.0 / float (List.fold (*) 1 d.Shape.Tail)), 0.0

        d.Name, probe (Initialise.dtypeOf dtype d.Name) (prefix + d.Name) d.Shape scale shift

    Model.declarations model |> List.map value |> Tree.ofSeq

// ---- files ------------------------------------------------------------------------------------------

/// Whether `CTKD_GOLDEN` names a folder other than the repository's.
let elsewhere: bool = not (String.IsNullOrEmpty(Environment.GetEnvironmentVariable "CTKD_GOLDEN"))

/// The folder of the files.
let folder: string =
    match Environment.GetEnvironmentVariable "CTKD_GOLDEN" with
    | null
    | "" -> Path.Combine(AppContext.BaseDirectory, "golden")
    | folder -> folder

/// Returns a field of a JSON object.
let field (name: string) (element: JsonElement) : JsonElement = element.GetProperty name

let has (name: string) (element: JsonElement) : bool =
    element.ValueKind = JsonValueKind.Object && fst (element.TryGetProperty name)

let number (name: string) (element: JsonElement) : float = (field name element).GetDouble()
let integer (name: string) (element: JsonElement) : int = (field name element).GetInt32()
let text (name: string) (element: JsonElement) : string = string ((field name element).GetString())
let items (element: JsonElement) : JsonElement list = List.ofSeq (element.EnumerateArray())

let floats (name: string) (element: JsonElement) : float[] = [|
    for x in (field name element).EnumerateArray() -> x.GetDouble()
|]

let entries (element: JsonElement) : (string * JsonElement) list = [
    for entry in element.EnumerateObject() -> entry.Name, entry.Value
]

let load (file: string) : JsonElement =
    use document = JsonDocument.Parse(File.ReadAllText(Path.Combine(folder, file)))
    document.RootElement.Clone()

/// A case to reproduce: a model, or one of a file's loss cases or trajectories by index.
[<NoComparison>]
type Item = { File: string; Index: int; Name: string; Value: JsonElement }

/// All cases in the folder.
[<NoComparison; NoEquality>]
type Found = {
    Models: Item list
    Cases: Item list
    Trajectories: Item list
    /// Files in another format.
    Others: string list
}

/// Searches every file of the folder.
let find () : Found =
    let roots = [
        for path in Directory.GetFiles(folder, "*.json") |> Array.sort ->
            let file = string (Path.GetFileName path)
            file, load file
    ]

    let item name file index value = { File = file; Index = index; Name = name value; Value = value }

    let isTrajectories (root: JsonElement) =
        root.ValueKind = JsonValueKind.Array && List.forall (has "trace") (items root)

    {
        Models = [
            for file, root in roots do
                if has "model" root then item (text "model") file 0 root
        ]
        Cases = [
            for file, root in roots do
                if has "cases" root then
                    yield! field "cases" root |> items |> List.mapi (item (text "name") file)
        ]
        Trajectories = [
            for file, root in roots do
                if isTrajectories root then
                    yield! items root |> List.mapi (item (text "tag") file)
        ]
        Others = [
            for file, root in roots do
                if not (has "model" root || has "cases" root || isTrajectories root) then file
        ]
    }

/// The cases, searched once.
let found: Lazy<Found> = lazy (find ())

/// Creates a test for each case, named after it and its place; the body gets the whole file.
let each (name: string) (items: Item list) (body: Item -> JsonElement -> unit) : Test =
    testList name [
        for item in items ->
            testCase
                $"{item.Name} ({item.File}, {item.Index})"
                (fun () -> Tensor.scoped (fun () -> body item (load item.File)))
    ]

// ---- comparing --------------------------------------------------------------------------------------

/// Values to compare; `Rms` is that of the whole vector, of which they are a part or statistics.
type Comparison = { What: string; Rms: float; Expected: float[]; Actual: float[] }

let rms (values: float[]) : float = values |> Array.averageBy (fun x -> x * x) |> sqrt

/// Compares a vector with all its values.
let vector (what: string) (expected: float[]) (actual: float[]) : Comparison = {
    What = what
    Rms = rms expected
    Expected = expected
    Actual = actual
}

let scalar (what: string) (expected: float) (actual: float) : Comparison = vector what [| expected |] [| actual |]

/// Compares a tensor with those of its statistics that the file has: shape, mean, rms, norm, first.
let statistics (what: string) (expected: JsonElement) (actual: Tensor) : Comparison list =
    let values = Tensor.toFloats actual
    let whole = if has "rms" expected then number "rms" expected else rms values

    let compare name (ours: unit -> float) =
        if has name expected then
            [ { scalar $"{what}, {name}" (number name expected) (ours ()) with Rms = whole } ]
        else
            []

    [
        if has "shape" expected then
            vector $"{what}, shape" (floats "shape" expected) (Tensor.shape actual |> Array.map float)
        yield! compare "mean" (fun () -> Array.average values)
        yield! compare "rms" (fun () -> rms values)
        yield! compare "norm" (fun () -> sqrt (Array.sumBy (fun x -> x * x) values))
        if has "first" expected then
            let first = floats "first" expected

            {
                vector $"{what}, first" first (Array.truncate first.Length values) with
                    Rms = whole
            }
    ]

/// float64 tolerance: 1e-9 relative plus 1e-12 absolute.
let double (_: Comparison) (expected: float) : float = 1e-9 * abs expected + 1e-12

/// float32 tolerance: 1e-4 of the vector's rms.
let single (comparison: Comparison) (_: float) : float = 1e-4 * comparison.Rms

/// Fails with every comparison that exceeds its tolerance, and reports the worst share of it.
let verify tolerance (comparisons: Comparison list) : unit =
    let used (c: Comparison) =
        if c.Expected.Length <> c.Actual.Length then
            infinity
        else
            let share expected actual =
                let share = abs (expected - actual) / tolerance c expected
                if Double.IsNaN share then infinity else share

            Array.map2 share c.Expected c.Actual |> Array.fold max 0.0

    let wrong = [
        for share, c in comparisons |> List.map (fun c -> used c, c) |> List.sortByDescending fst do
            if share > 1.0 then
                $"{c.What}: %.4g{share} tolerances off\n  expected %A{c.Expected}\n  actual %A{c.Actual}"
    ]

    Must.beNonEmpty comparisons
    Expect.isTrue wrong.IsEmpty (String.concat "\n" wrong)
