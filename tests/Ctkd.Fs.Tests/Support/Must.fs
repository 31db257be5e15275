/// Assertions. Unlike Expecto's `Expect` they take no message, since a test's name says what it tests and its trace
/// where it failed, and the expected value comes first.
module Ctkd.Fs.Tests.Must

open System
open System.Text.RegularExpressions
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Oracle

// ---- values ------------------------------------------------------------------------------------------

/// The condition is true.
let hold (condition: bool) : unit = Expect.isTrue condition "the condition must hold"

/// The condition is false.
let notHold (condition: bool) : unit = Expect.isFalse condition "the condition must not hold"

/// The values are equal: lists, arrays, records and tuples by content.
let equal (expected: 'T) (actual: 'T) : unit = Expect.equal actual expected "equal values"

/// The values differ.
let differ (other: 'T) (actual: 'T) : unit = Expect.notEqual actual other "different values"

/// Both are the same object.
let beTheSame (expected: 'T) (actual: 'T) : unit =
    Expect.isTrue (obj.ReferenceEquals(expected, actual)) "the same object"

/// The value is null.
let beNull (value: 'T | null) : unit = Expect.isTrue (isNull value) "null"

/// The value lies in [lowest, highest].
let lie (lowest: 'T) (highest: 'T) (actual: 'T) : unit =
    if not (actual >= lowest && actual <= highest) then
        failtest $"{actual} is not from {lowest} to {highest}"

/// The body throws an exception of this type or a derived one; returns it.
let throwAny<'E when 'E :> exn> (body: unit -> unit) : 'E =
    let thrown =
        try
            body ()
            None
        with error ->
            Some error

    match thrown with
    | Some(:? 'E as error) -> error
    | Some other -> failtest $"{typeof<'E>.Name} was expected, not {other}"
    | None -> failtest $"{typeof<'E>.Name} was expected, and nothing was thrown"

/// The body throws an exception of exactly this type; returns it.
let throw<'E when 'E :> exn> (body: unit -> unit) : 'E =
    let error = throwAny<'E> body
    equal typeof<'E> (error.GetType())
    error

/// The body throws an `ArgumentException` that names the parameter.
let refuse (parameter: string) (body: unit -> 'T) : unit =
    let error = throw<ArgumentException>(body >> ignore)
    equal parameter (string error.ParamName)

// ---- texts -------------------------------------------------------------------------------------------

let contain (part: string) (text: string) : unit = Expect.stringContains text part "a part of the text"

let lack (part: string) (text: string) : unit =
    if text.Contains(part, StringComparison.Ordinal) then
        failtest $"'{part}' must not be in: {text}"

let startWith (start: string) (text: string) : unit = Expect.stringStarts text start "the text's start"

let endWith (ending: string) (text: string) : unit = Expect.stringEnds text ending "the text's end"

let matchRegex (pattern: string) (text: string) : unit =
    if not (Regex.IsMatch(text, pattern)) then
        failtest $"no match of {pattern} in: {text}"

let notMatchRegex (pattern: string) (text: string) : unit =
    if Regex.IsMatch(text, pattern) then failtest $"a match of {pattern} in: {text}"

// ---- collections -------------------------------------------------------------------------------------

let beEmpty (items: 'T seq) : unit = Expect.isEmpty items $"nothing, not %A{List.ofSeq items}"

let beNonEmpty (items: 'T seq) : unit = Expect.isNonEmpty items "something"

/// There is one item; returns it.
let single (items: 'T seq) : 'T =
    match List.ofSeq items with
    | [ item ] -> item
    | items -> failtest $"one item was expected, not %A{items}"

let have (item: 'T) (items: 'T seq) : unit =
    if not (Seq.contains item items) then
        failtest $"{item} is not among %A{List.ofSeq items}"

let haveNo (item: 'T) (items: 'T seq) : unit =
    if Seq.contains item items then
        failtest $"{item} must not be among %A{List.ofSeq items}"

/// An item satisfies the condition.
let haveOne (condition: 'T -> bool) (items: 'T seq) : unit =
    if not (Seq.exists condition items) then
        failtest $"no such item among %A{List.ofSeq items}"

/// No item satisfies the condition.
let haveNone (condition: 'T -> bool) (items: 'T seq) : unit =
    if Seq.exists condition items then
        failtest $"there is such an item among %A{List.ofSeq items}"

// ---- numbers and tensors -----------------------------------------------------------------------------

/// Every element is within absolute + relative |expected|; a NaN never is.
let beClose (relative: float) (absolute: float) (expected: float[]) (actual: float[]) : unit =
    equal expected.Length actual.Length

    for i in 0 .. expected.Length - 1 do
        if not (abs (expected[i] - actual[i]) <= absolute + relative * abs expected[i]) then
            failtest $"element {i} of {expected.Length}: expected {expected[i]:R}, got {actual[i]:R}"

/// The number is within absolute + relative |expected|.
let beNear (relative: float) (absolute: float) (expected: float) (actual: float) : unit =
    beClose relative absolute [| expected |] [| actual |]

/// The numbers are bit-identical.
let beSame (expected: float[]) (actual: float[]) : unit =
    equal (Array.map BitConverter.DoubleToInt64Bits expected) (Array.map BitConverter.DoubleToInt64Bits actual)

/// Both trees have the same names and bit-identical tensors.
let beSameTree (expected: Tree) (actual: Tree) : unit =
    equal (Tree.names expected) (Tree.names actual)

    for name, x in Tree.toList expected do
        let y = Tree.find name actual
        Expect.isTrue (Tensor.dtype x = Tensor.dtype y) $"{name}: {x} and {y}"
        Expect.isTrue (Tensor.toBytes x = Tensor.toBytes y) $"{name} differs"

/// The gradients of a 0-d function match central differences, for every element of every input.
let matchDerivatives (f: Tensor list -> Tensor) (inputs: Dense list) : unit =
    let actual = Plain.gradients f inputs
    let size = max 1.0 (abs (Plain.value (fun () -> f (List.map Plain.ofDense inputs))))

    for i in 0 .. inputs.Length - 1 do
        let f (values: float[]) =
            let moved = inputs |> List.mapi (fun j x -> if i = j then { x with Values = values } else x)
            Plain.value (fun () -> f (List.map Plain.ofDense moved))

        let expected = Array.init inputs[i].Values.Length (derivative f inputs[i].Values)
        beClose 1e-7 (1e-9 * size) expected actual[i]

/// Returns the number of live tensors after collecting the garbage of earlier tests.
let live () : int64 =
    for _ in 1..2 do
        GC.Collect()
        GC.WaitForPendingFinalizers()

    Tensor.live ()

/// The body does not change the number of live tensors.
let leaveNothing (body: unit -> unit) : unit =
    let before = live ()
    body ()
    equal before (live ())
