namespace Ctkd.Fs

open System
open System.Collections.Generic
open System.IO

/// Makes a value of the arguments of an allowed global, or says why it does not.
type PickleConstructor = PickleValue list -> Result<PickleValue, string>

/// What a pickle may do.
[<ReferenceEquality>]
type PickleRules = {
    /// The full names that it may import, and their constructors.
    Allowed: Map<string, PickleConstructor>
    /// What stands for a thing outside the pickle, given the pickle's name of it.
    Outside: PickleValue -> Result<PickleValue, string>
}

/// The pickle's stack machine.
[<ReferenceEquality>]
type private PickleMachine = {
    Input: PickleInput
    Rules: PickleRules
    Stack: ResizeArray<PickleValue>
    Marks: Stack<int>
    Memo: Dictionary<int64, PickleValue>
}

/// Reads Python pickles of the protocols 0 to 4 as data. Nothing is executed: a global that is not in the
/// given table is refused by its name. The memory is bounded by the pickle's size and `maxInstructions`.
[<RequireQualifiedAccess>]
module Pickle =
    /// More instructions than this are refused; the official CIFAR files need a twentieth of it.
    let maxInstructions: int = 4_000_000

    let private refuse (reason: string) : 'T = PickleInput.refuse reason

    // ---- stack and memo

    let private push (value: PickleValue) (m: PickleMachine) : unit = m.Stack.Add value

    let private pop (m: PickleMachine) : PickleValue =
        let floor = if m.Marks.Count > 0 then m.Marks.Peek() else 0

        if m.Stack.Count <= floor then
            refuse $"nothing is on the stack at byte {m.Input.Position}"

        let value = m.Stack[m.Stack.Count - 1]
        m.Stack.RemoveAt(m.Stack.Count - 1)
        value

    let private top (m: PickleMachine) : PickleValue =
        let value = pop m
        push value m
        value

    let private popToMark (m: PickleMachine) : PickleValue list =
        if m.Marks.Count = 0 then
            refuse $"no mark is on the stack at byte {m.Input.Position}"

        let mark = m.Marks.Pop()
        let values = List.ofSeq (m.Stack.GetRange(mark, m.Stack.Count - mark))
        m.Stack.RemoveRange(mark, m.Stack.Count - mark)
        values

    /// The topmost `count` values, the lowest first.
    let private popMany (count: int) (m: PickleMachine) : PickleValue list =
        List.init count (fun _ -> pop m) |> List.rev

    let private store (index: int64) (m: PickleMachine) : unit = m.Memo[index] <- top m

    let private recall (index: int64) (m: PickleMachine) : unit =
        match m.Memo.TryGetValue index with
        | true, value -> push value m
        | _ -> refuse $"the memo has no entry {index}"

    // ---- containers and globals

    let private pairs (values: PickleValue list) : struct (PickleValue * PickleValue) list =
        let chunks = List.chunkBySize 2 values

        chunks
        |> List.map (
            function
            | [ key; value ] -> struct (key, value)
            | _ -> refuse "a dictionary in it has a key without a value"
        )

    let private append (values: PickleValue list) (m: PickleMachine) : unit =
        match top m with
        | PickleValue.Sequence list -> list.AddRange values
        | _ -> refuse "something is appended to what is no list"

    let private setItems (values: PickleValue list) (m: PickleMachine) : unit =
        match top m with
        | PickleValue.Dictionary entries -> entries.AddRange(pairs values)
        | _ -> refuse "an item is set in what is no dictionary"

    let private import (modul: string) (name: string) (m: PickleMachine) : unit =
        let full = $"{modul}.{name}"

        if Map.containsKey full m.Rules.Allowed then
            push (PickleValue.Global full) m
        else
            raise (Forbidden full)

    /// The old way to make an instance: no allowed global needs it, and any other is refused by its name.
    let private makeInstance (m: PickleMachine) : unit =
        import (PickleInput.line m.Input) (PickleInput.line m.Input) m
        refuse "it makes an instance of a class"

    let private importFromStack (m: PickleMachine) : unit =
        match popMany 2 m with
        | [ PickleValue.Text modul; PickleValue.Text name ] -> import modul name m
        | _ -> refuse "it imports a name that is no text"

    let private reduce (m: PickleMachine) : unit =
        match popMany 2 m with
        | [ PickleValue.Global name; PickleValue.Tuple arguments ] ->
            match m.Rules.Allowed[name] arguments with
            | Ok value -> push value m
            | Error reason -> refuse $"{name}: {reason}"
        | _ -> refuse "it calls what is no allowed name"

    let private build (m: PickleMachine) : unit =
        let state = pop m

        match top m with
        | PickleValue.Object o -> o.State <- state
        // Attributes of an ordered dictionary, such as the versions of layers that PyTorch notes: never asked
        // for.
        | PickleValue.Dictionary _ -> ()
        | _ -> refuse "it gives a state to what has none"

    let private outside (m: PickleMachine) : unit =
        match m.Rules.Outside(pop m) with
        | Ok value -> push value m
        | Error reason -> refuse reason

    let private protocol (m: PickleMachine) : unit =
        match PickleInput.uint8 m.Input with
        | version when version <= 4L -> ()
        | version -> refuse $"it has protocol {version}, and 0 to 4 are read: write it again with protocol=2"

    // ---- instructions

    /// An instruction that pushes what it reads from the input.
    let private pushing (value: PickleInput -> PickleValue) (m: PickleMachine) : unit = push (value m.Input) m

    let private pushText (length: PickleInput -> int64) : PickleMachine -> unit =
        pushing (fun input -> PickleValue.Text(PickleInput.utf8 (PickleInput.take (length input) input)))

    let private pushBytes (length: PickleInput -> int64) : PickleMachine -> unit =
        pushing (fun input -> PickleValue.Bytes(PickleInput.take (length input) input))

    let private pushLong (length: PickleInput -> int64) : PickleMachine -> unit =
        pushing (fun input ->
            PickleValue.Whole(PickleInput.longInteger (PickleInput.take (length input) input))
        )

    let private wholeOrTruth (text: string) : PickleValue =
        match text with
        | "00" -> PickleValue.Truth false
        | "01" -> PickleValue.Truth true
        | _ -> PickleValue.Whole(PickleInput.number text)

    let private sequence (values: PickleValue list) : PickleValue = PickleValue.Sequence(ResizeArray values)

    let private dictionary (values: PickleValue list) : PickleValue =
        PickleValue.Dictionary(ResizeArray(pairs values))

    let private scalars: (char * (PickleMachine -> unit)) list = [
        'N', push PickleValue.Nothing
        '\x88', push (PickleValue.Truth true)
        '\x89', push (PickleValue.Truth false)
        'I', pushing (PickleInput.line >> wholeOrTruth)
        'L', pushing (PickleInput.line >> PickleInput.number >> PickleValue.Whole)
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
        'V', pushing (PickleInput.line >> PickleInput.unicode >> PickleValue.Text)
        'X', pushText PickleInput.uint32
        '\x8c', pushText PickleInput.uint8
        '\x8d', pushText PickleInput.uint64
    ]

    let private containers: (char * (PickleMachine -> unit)) list = [
        '(', (fun m -> m.Marks.Push m.Stack.Count)
        '0', (fun m -> pop m |> ignore)
        '1', (fun m -> popToMark m |> ignore)
        '2', (fun m -> push (top m) m)
        ')', push (PickleValue.Tuple [])
        '\x85', (fun m -> push (PickleValue.Tuple(popMany 1 m)) m)
        '\x86', (fun m -> push (PickleValue.Tuple(popMany 2 m)) m)
        '\x87', (fun m -> push (PickleValue.Tuple(popMany 3 m)) m)
        't', (fun m -> push (PickleValue.Tuple(popToMark m)) m)
        ']', (fun m -> push (sequence []) m)
        'l', (fun m -> push (sequence (popToMark m)) m)
        'a', (fun m -> append (popMany 1 m) m)
        'e', (fun m -> append (popToMark m) m)
        '}', (fun m -> push (dictionary []) m)
        'd', (fun m -> push (dictionary (popToMark m)) m)
        's', (fun m -> setItems (popMany 2 m) m)
        'u', (fun m -> setItems (popToMark m) m)
    ]

    let private others: (char * (PickleMachine -> unit)) list = [
        '\x80', protocol
        '\x95', (fun m -> PickleInput.uint64 m.Input |> ignore)
        'p', (fun m -> store (PickleInput.number (PickleInput.line m.Input)) m)
        'q', (fun m -> store (PickleInput.uint8 m.Input) m)
        'r', (fun m -> store (PickleInput.uint32 m.Input) m)
        '\x94', (fun m -> store (int64 m.Memo.Count) m)
        'g', (fun m -> recall (PickleInput.number (PickleInput.line m.Input)) m)
        'h', (fun m -> recall (PickleInput.uint8 m.Input) m)
        'j', (fun m -> recall (PickleInput.uint32 m.Input) m)
        'c', (fun m -> import (PickleInput.line m.Input) (PickleInput.line m.Input) m)
        'i', makeInstance
        '\x93', importFromStack
        'R', reduce
        'b', build
        'Q', outside
    ]

    let private instructions: Map<char, PickleMachine -> unit> = Map(scalars @ containers @ others)

    let private step (m: PickleMachine) (opcode: char) : unit =
        match Map.tryFind opcode instructions with
        | Some instruction -> instruction m
        | None ->
            refuse
                $"it has the instruction 0x{int opcode:X2} at byte {m.Input.Position - 1}, which is not read"

    let private run (m: PickleMachine) : PickleValue =
        let next () = char (PickleInput.uint8 m.Input)
        let mutable opcode = next ()
        let mutable count = 1

        while opcode <> '.' do
            step m opcode
            count <- count + 1

            if count > maxInstructions then
                refuse $"it has more than {maxInstructions} instructions"

            opcode <- next ()

        pop m

    /// The value of the pickle that begins at the input's position, which then is behind its end. What is
    /// against the rules raises `Unpicklable` or `Forbidden`.
    let internal next (rules: PickleRules) (input: PickleInput) : PickleValue =
        run {
            Input = input
            Rules = rules
            Stack = ResizeArray()
            Marks = Stack()
            Memo = Dictionary()
        }

    /// The value of the one pickle that `data` is.
    let internal whole (rules: PickleRules) (data: ReadOnlyMemory<byte>) : PickleValue =
        let input = { Data = data; Position = 0 }
        let value = next rules input

        match data.Length - input.Position with
        | 0 -> value
        | rest -> refuse $"{rest} bytes follow its end"

    /// What a refused name is told.
    let internal forbidden (name: string) : string =
        $"it asks for {name}, which is not among the few names that are allowed"

    /// The rule of a pickle that stands alone.
    let internal nothingOutside (_: PickleValue) : Result<PickleValue, string> =
        Error "it refers to what is outside it"

    /// The value of a pickle; `allowed` maps the full names that it may import to their constructors, and
    /// `where` is the path that messages name. The bytes in the value are views of `data`.
    let parse
        (allowed: Map<string, PickleConstructor>)
        (where: string)
        (data: byte[])
        : Result<PickleValue, Error> =
        let refused (reason: string) =
            let what = $"'{Path.GetFileName where}' is refused as a pickle: {Files.printable reason}"
            Error(Error.create Damaged what where "fetch the file again; do not open it with Python")

        try
            Ok(whole { Allowed = allowed; Outside = nothingOutside } (ReadOnlyMemory data))
        with
        | Unpicklable reason -> refused reason
        | Forbidden name -> refused (forbidden name)
