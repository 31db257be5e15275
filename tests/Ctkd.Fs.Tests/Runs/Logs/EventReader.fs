/// A reader of TensorBoard's event files that shares nothing with the writer: the checksum by its definition bit by bit, protobuf
/// by its description. Fields have the numbers of TensorFlow's event.proto and summary.proto.
module Ctkd.Fs.Tests.EventReader

open System
open System.Collections.Generic
open System.IO
open System.Text

/// CRC-32C: the remainder by the polynomial 0x1EDC6F41, bits reversed, one bit after another.
let crc32c (bytes: byte[]) : uint32 =
    let mutable crc = 0xFFFFFFFFu

    for value in bytes do
        for bit in 0..7 do
            let differs = ((crc ^^^ (uint32 value >>> bit)) &&& 1u) = 1u
            crc <- if differs then (crc >>> 1) ^^^ 0x82F63B78u else crc >>> 1

    crc ^^^ 0xFFFFFFFFu

let private masked (bytes: byte[]) : uint32 =
    let crc = crc32c bytes
    ((crc >>> 15) ||| (crc <<< 17)) + 0xA282EAD8u

// ---- protobuf ----------------------------------------------------------------------------------------

type private Field =
    | Varint of uint64
    | Fixed of byte[]
    | Part of byte[]

/// The fields of a message in their order, each by its number.
let private fields (bytes: byte[]) : (int * Field) list =
    let mutable at = 0

    let varint () =
        let mutable value, shift, more = 0UL, 0, true

        while more do
            value <- value ||| (uint64 (bytes[at] &&& 0x7Fuy) <<< shift)
            more <- bytes[at] >= 0x80uy
            shift <- shift + 7
            at <- at + 1

        value

    let take count =
        at <- at + count
        bytes[at - count .. at - 1]

    [
        while at < bytes.Length do
            let key = varint ()

            let field =
                match key &&& 7UL with
                | 0UL -> Varint(varint ())
                | 1UL -> Fixed(take 8)
                | 2UL -> Part(take (int (varint ())))
                | 5UL -> Fixed(take 4)
                | kind -> failwith $"wire type {kind}"

            int (key >>> 3), field
    ]

let private one (number: int) (fields: (int * Field) list) : Field =
    fields |> List.filter (fst >> (=) number) |> List.exactlyOne |> snd

let private double field =
    match field with
    | Fixed bytes when bytes.Length = 8 -> BitConverter.ToDouble bytes
    | other -> failwith $"no double: {other}"

let private doubles field =
    match field with
    | Part bytes -> bytes |> Array.chunkBySize 8 |> Array.map BitConverter.ToDouble
    | other -> failwith $"no packed doubles: {other}"

let private part field =
    match field with
    | Part bytes -> bytes
    | other -> failwith $"no bytes: {other}"

// ---- events ------------------------------------------------------------------------------------------

/// Smallest, largest, number, sum, sum of squares, limits, counts.
type Counts = { Facts: float list; Limits: float[]; Counts: float[] }

type Value =
    | Number of float32
    | Spread of Counts

type Content =
    | Version of string
    | Session of uint64
    | Summary of (string * Value) list

type Event = { Time: float; Step: int; Content: Content }

let private value (bytes: byte[]) : string * Value =
    let read = fields bytes
    let tag = Encoding.UTF8.GetString(part (one 1 read))

    match read |> List.filter (fun (number, _) -> number <> 1) |> List.exactlyOne with
    | 2, Fixed bytes when bytes.Length = 4 -> tag, Number(BitConverter.ToSingle bytes)
    | 5, Part histogram ->
        let read = fields histogram

        tag,
        Spread {
            Facts = [ for number in 1..5 -> double (one number read) ]
            Limits = doubles (one 6 read)
            Counts = doubles (one 7 read)
        }
    | other -> failwith $"no value: {other}"

let private event (bytes: byte[]) : Event =
    let read = fields bytes

    let step =
        match one 2 read with
        | Varint step -> int step
        | other -> failwith $"no step: {other}"

    {
        Time = double (one 1 read)
        Step = step
        Content =
            match read |> List.filter (fun (number, _) -> number > 2) |> List.exactlyOne with
            | 3, Part text -> Version(Encoding.UTF8.GetString text)
            | 5, Part summary ->
                Summary [
                    for number, item in fields summary do
                        if number = 1 then value (part item)
                ]
            | 7, Part session ->
                match one 1 (fields session) with
                | Varint status -> Session status
                | other -> failwith $"no status: {other}"
            | other -> failwith $"no content: {other}"
    }

/// The events of a file's bytes, and the bytes of a last record that is cut short. A wrong checksum fails.
let parse (bytes: byte[]) : Event list * int =
    let rec go (at: int) (events: Event list) =
        let rest = bytes.Length - at
        let length = if rest >= 12 then BitConverter.ToInt64(bytes, at) else Int64.MaxValue

        if rest < 12 || int64 rest < 16L + length then
            List.rev events, rest
        else
            let data = bytes[at + 12 .. at + 11 + int length]
            Must.equal (masked bytes[at .. at + 7]) (BitConverter.ToUInt32(bytes, at + 8))
            Must.equal (masked data) (BitConverter.ToUInt32(bytes, at + 12 + int length))
            go (at + 16 + int length) (event data :: events)

    go 0 []

/// The files of a folder in the order of their names, as TensorBoard reads them.
let files (folder: string) : string list =
    Directory.GetFiles folder |> Array.sortWith (fun a b -> String.CompareOrdinal(a, b)) |> List.ofArray

/// What TensorBoard shows of a folder: each file begins with its version, and a start of a session drops what came before of its
/// step and of later ones.
let shown (folder: string) : (int * float * (string * Value) list) list =
    let mutable kept: (int * float * (string * Value) list) list = []

    for file in files folder do
        Must.contain "tfevents" (string (Path.GetFileName file))
        let events = fst (parse (File.ReadAllBytes file))
        Must.equal (Version "brain.Event:2") events.Head.Content

        for event in events.Tail do
            match event.Content with
            | Summary values -> kept <- kept @ [ event.Step, event.Time, values ]
            | Session 1UL -> kept <- kept |> List.filter (fun (step, _, _) -> step < event.Step)
            | other -> failwith $"an event that no run writes: {other}"

    kept
