namespace Ctkd.Fs

open System
open System.IO

/// Reads Python pickles of protocols 0 to 5 as data. Executes nothing: a name outside the given rules is refused by
/// name. Memory is bounded by a fixed budget, time by `maxInstructions`.
[<RequireQualifiedAccess>]
module Pickle =
    /// The most instructions of a pickle; the official CIFAR files need a twentieth of it.
    let maxInstructions: int = 4_000_000

    let private refuse (reason: string) : 'T = PickleInput.refuse reason

    let private protocol (m: PickleMachine) : unit =
        match PickleInput.uint8 m.Input with
        | version when version <= 5L -> ()
        | version -> refuse $"it has protocol {version}, and 0 to 5 are read: write it again with protocol=2"

    // ---- instructions

    /// An instruction that pushes a value read from the input.
    let private pushing (value: PickleInput -> PickleValue) (m: PickleMachine) : unit =
        PickleInput.charge PickleMachine.scalar m.Input
        PickleMachine.push (value m.Input) m

    let private pushText (length: PickleInput -> int64) : PickleMachine -> unit =
        pushing (fun input ->
            PickleInput.charge PickleMachine.scalar input
            PickleInput.text (length input) input
        )

    let private pushBytes (length: PickleInput -> int64) : PickleMachine -> unit =
        pushing (fun input -> PickleValue.Bytes(PickleInput.take (length input) input))

    let private pushLong (length: PickleInput -> int64) : PickleMachine -> unit =
        pushing (fun input ->
            let bytes = PickleInput.take (length input) input
            PickleInput.charge (2L * int64 bytes.Length) input
            PickleInput.longInteger bytes
        )

    let private wholeOrTruth (text: string) : PickleValue =
        match text with
        | "00" -> PickleValue.Truth false
        | "01" -> PickleValue.Truth true
        | _ -> PickleInput.integer text

    let private scalars: (char * (PickleMachine -> unit)) list = [
        'N', PickleMachine.push PickleValue.Nothing
        '\x88', PickleMachine.push (PickleValue.Truth true)
        '\x89', PickleMachine.push (PickleValue.Truth false)
        'I', pushing (PickleInput.line >> wholeOrTruth)
        'L', pushing (PickleInput.line >> PickleInput.integer)
        'K', pushing (PickleInput.uint8 >> PickleValue.Whole)
        'M', pushing (PickleInput.uint16 >> PickleValue.Whole)
        'J', pushing (PickleInput.int32 >> PickleValue.Whole)
        '\x8a', pushLong PickleInput.uint8
        '\x8b', pushLong PickleInput.int32
        'F', pushing (PickleInput.line >> PickleInput.real >> PickleValue.Real)
        'G', pushing (PickleInput.float64 >> PickleValue.Real)
        'S', pushing (PickleInput.line >> PickleInput.quoted >> PickleValue.Bytes)
        'U', pushBytes PickleInput.uint8
        'T', pushBytes PickleInput.int32
        'C', pushBytes PickleInput.uint8
        'B', pushBytes PickleInput.uint32
        '\x8e', pushBytes PickleInput.uint64
        '\x96', pushBytes PickleInput.uint64
        'V', pushing (PickleInput.line >> PickleInput.unicode >> PickleValue.Text)
        'X', pushText PickleInput.uint32
        '\x8c', pushText PickleInput.uint8
        '\x8d', pushText PickleInput.uint64
    ]

    let private containers: (char * (PickleMachine -> unit)) list = [
        '(', PickleMachine.pushMark
        '0', (fun m -> PickleMachine.pop m |> ignore)
        '1', (fun m -> PickleMachine.dropFrom (PickleMachine.popMark m) m)
        '2', (fun m -> PickleMachine.push (PickleMachine.top m) m)
        ')', PickleMachine.push (PickleValue.Tuple [])
        '\x85', PickleMachine.tuple 1
        '\x86', PickleMachine.tuple 2
        '\x87', PickleMachine.tuple 3
        't', PickleMachine.tupleToMark
        ']', PickleMachine.pushList
        'l', PickleMachine.listToMark
        'a', PickleMachine.append 1
        'e', PickleMachine.appendToMark
        '}', PickleMachine.pushDictionary
        'd', PickleMachine.dictionaryToMark
        's', PickleMachine.setItem
        'u', PickleMachine.setToMark
        // Sets, as lists.
        '\x8f', PickleMachine.pushList
        '\x90', PickleMachine.appendToMark
        '\x91', PickleMachine.listToMark
    ]

    let private outOfBand (_: PickleMachine) : unit =
        refuse "its buffers are stored outside it: write it again without buffer_callback"

    let private others: (char * (PickleMachine -> unit)) list = [
        '\x80', protocol
        '\x95', (fun m -> PickleInput.uint64 m.Input |> ignore)
        'p', (fun m -> PickleMachine.store (PickleInput.number (PickleInput.line m.Input)) m)
        'q', (fun m -> PickleMachine.store (PickleInput.uint8 m.Input) m)
        'r', (fun m -> PickleMachine.store (PickleInput.uint32 m.Input) m)
        '\x94', (fun m -> PickleMachine.store (int64 m.Memo.Count) m)
        'g', (fun m -> PickleMachine.recall (PickleInput.number (PickleInput.line m.Input)) m)
        'h', (fun m -> PickleMachine.recall (PickleInput.uint8 m.Input) m)
        'j', (fun m -> PickleMachine.recall (PickleInput.uint32 m.Input) m)
        'c', PickleMachine.importLines
        'i', PickleMachine.makeInstance
        'o', PickleMachine.makeFromMark
        '\x81', PickleMachine.reduce
        '\x92', PickleMachine.reduceNamed
        '\x97', outOfBand
        '\x93', PickleMachine.importFromStack
        'R', PickleMachine.reduce
        'b', PickleMachine.build
        'Q', PickleMachine.outside
    ]

    let private unknown (m: PickleMachine) : unit =
        let place = m.Input.Position - 1
        refuse $"it has the instruction 0x{m.Input.Data.Span[place]:X2} at byte {place}, which is not read"

    /// Indexed by opcode.
    let private instructions: (PickleMachine -> unit)[] =
        let known = Map(scalars @ containers @ others)
        Array.init 256 (fun opcode -> Map.tryFind (char opcode) known |> Option.defaultValue unknown)

    let private run (m: PickleMachine) : PickleValue =
        let next () = int (PickleInput.uint8 m.Input)
        let mutable opcode = next ()
        let mutable count = 1

        while opcode <> int '.' do
            instructions[opcode] m
            count <- count + 1

            if count > maxInstructions then
                refuse $"it has more than {maxInstructions} instructions"

            opcode <- next ()

        PickleMachine.pop m

    /// Reads the pickle at the input's position, and advances past its end. Violations raise `Unpicklable` or
    /// `Forbidden`.
    let internal next (rules: PickleRules) (input: PickleInput) : PickleValue = run (PickleMachine.create rules input)

    /// Reads `data` as exactly one pickle.
    let internal whole (rules: PickleRules) (budget: MemoryBudget) (data: ReadOnlyMemory<byte>) : PickleValue =
        let input = { Data = data; Budget = budget; Position = 0 }
        let value = next rules input

        match data.Length - input.Position with
        | 0 -> value
        | rest -> refuse $"{rest} bytes follow its end"

    /// The message for a refused name.
    let internal forbidden (name: string) : string =
        $"it asks for {name}, which is not among the few names that are allowed"

    /// The rule of a pickle without external references.
    let internal nothingOutside (_: PickleValue) : Result<PickleValue, string> = Error "it refers to what is outside it"

    /// The rules that refuse every name but the allowed ones.
    let internal strict (allowed: Map<string, PickleConstructor>) : PickleRules = {
        Allowed = allowed
        IsInert = (fun _ -> false)
        Outside = nothingOutside
    }

    /// Reads a pickle. `allowed` maps the full names of allowed imports to their constructors, and `where` is the path
    /// in messages. Bytes in the value are views of `data`.
    let parse (allowed: Map<string, PickleConstructor>) (where: string) (data: byte[]) : Result<PickleValue, Error> =
        let refused (reason: string) =
            let what = $"'{Path.GetFileName where}' is refused as a pickle: {Files.printable reason}"
            Error.fail Damaged what where "fetch the file again; do not open it with Python"

        try
            Ok(whole (strict allowed) (MemoryBudget.create ()) (ReadOnlyMemory data))
        with
        | Unpicklable reason -> refused reason
        | Forbidden name -> refused (forbidden name)
