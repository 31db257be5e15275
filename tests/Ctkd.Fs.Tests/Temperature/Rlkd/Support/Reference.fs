/// Reference numbers of RLKD (tests/golden/rlkd.json), and the formulas of their inputs.
module Ctkd.Fs.Tests.Reference

open System
open System.Text.Json
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Golden

/// The file, unless a folder from outside holds other golden numbers.
let private file: JsonElement option =
    if IO.File.Exists(IO.Path.Combine(folder, "rlkd.json")) then
        Some(load "rlkd.json")
    else
        None

/// All numbers of a field, row by row.
let rec private numbersIn (element: JsonElement) : float[] =
    match element.ValueKind with
    | JsonValueKind.Array -> items element |> List.map numbersIn |> Array.concat
    | JsonValueKind.Number -> [| element.GetDouble() |]
    | JsonValueKind.True -> [| 1.0 |]
    | kind -> invalidOp $"no numbers but a {kind}"

/// The numbers under a path of names.
let private at (path: string) (root: JsonElement) : float[] =
    path.Split '.' |> Array.fold (fun element name -> field name element) root |> numbersIn

/// Runs a test with the file's numbers.
let reading (body: (string -> float[]) -> unit) : unit =
    match file with
    | Some root -> Tensor.scoped (fun () -> body (fun path -> at path root))
    | None -> Expect.isTrue elsewhere "tests/golden/rlkd.json is missing"

/// float64 numbers that were rounded to 1e-10.
let exactly (expected: float[]) (actual: Tensor) : unit = Must.beClose 1e-8 1e-9 expected (Tensor.toFloats actual)

let tabulate (rows: int) (columns: int) (f: float -> float -> float) : Tensor =
    Array.init (rows * columns) (fun n -> f (float (n / columns)) (float (n % columns)))
    |> Plain.tensor [ rows; columns ]

let student () = tabulate 4 5 (fun i j -> 3.0 * sin (0.7 * i + 1.3 * j + 0.2))

let teacher () = tabulate 4 5 (fun i j -> 4.0 * cos (0.5 * i - 0.9 * j + 0.1))

let labels () = Tensor.ofInt64s [ 4 ] [| 0L; 3L; 1L; 4L |]

let temperatures () = Plain.tensor [ 4 ] [| 1.0; 2.5; 4.0; 9.0 |]

let uniform () = Plain.number 4.0

/// Weights by formula, in the order of a pack whose layers are weight, bias; there `bias` comes first.
let formula (pack: Pack) : Tensor =
    pack.Declares
    |> List.mapi (fun i d ->
        let isBias = d.Shape.Length = 1
        let k = float (if isBias then i - 1 else i + 1)

        match d.Shape with
        | _ when d.Name = "deviation" -> Plain.tensor d.Shape (Array.zeroCreate d.Shape.Head)
        | [ rows; columns ] ->
            tabulate rows columns (fun a b -> sin (0.37 * a + 0.61 * b + 0.11 * k) / sqrt (float columns))
        | [ rows ] -> tabulate 1 rows (fun _ a -> 0.1 * cos (0.53 * a + 0.11 * k))
        | _ -> invalidOp "a matrix or a vector"
        |> Tensor.reshape [| -1L |]
    )
    |> Tensor.cat 0

/// As `formula`, where the last layer counts first.
let formulaFromLast (pack: Pack) : Tensor =
    match pack.Declares with
    | [ w1; b1; w2; b2 ] ->
        let parts = formula { pack with Declares = [ w2; b2; w1; b1 ] }
        let last = Pack.count { pack with Shapes = [ w2.Shape; b2.Shape ] }
        Tensor.cat 0 [ Tensor.slice 0 last (Pack.count pack) parts; Tensor.slice 0 0 last parts ]
    | _ -> invalidOp "two layers"

/// States of a trajectory.
let trajectory (n: int) : Tensor =
    tabulate
        n
        3
        (fun i k ->
            match int k with
            | 0 -> 0.5 + 0.4 * sin (0.9 * i)
            | 1 -> 0.6 + 0.3 * cos (0.5 * i)
            | _ -> 0.3 + 0.2 * sin (1.7 * i + 1.0)
        )

let vector (n: int) (f: float -> float) : Tensor = Plain.tensor [ n ] (Array.init n (fun i -> f (float i)))

let states () = Plain.tensor [ 4; 3 ] [| 0.9; 0.95; 0.8; 0.5; 0.7; 0.1; 0.2; 0.99; 0.05; 0.0; 0.0; 0.0 |]
